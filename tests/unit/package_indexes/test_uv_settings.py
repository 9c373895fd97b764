"""uv's variables and files, in uv's order."""

from pathlib import Path

import pytest

from perstackd.adapters.package_indexes.uv_settings import UvIndexes, uv_indexes


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".config/uv").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "xdg/uv").mkdir(parents=True)
    return {"XDG_CONFIG_DIRS": str(tmp_path / "xdg")}


def write(home: Path, text: str) -> None:
    (home / ".config/uv/uv.toml").write_text(text)


FILE = """
[[index]]
url = "https://extra.invalid/s"
[[index]]
name = "own"
url = "https://own.invalid/s"
default = true
[[index]]
name = "named"
url = "https://only-when-asked.invalid/s"
explicit = true
"""


def test_the_file_of_the_user_is_read(home: Path, environment: dict[str, str]) -> None:
    write(home, FILE)
    assert uv_indexes(environment, home) == UvIndexes("https://own.invalid/s", ("https://extra.invalid/s",))


def test_older_keys_are_read_at_the_top_and_below_pip(home: Path, environment: dict[str, str]) -> None:
    write(home, 'extra-index-url = ["https://a.invalid/s"]\n[pip]\nindex-url = "https://own.invalid/s"\n')
    assert uv_indexes(environment, home) == UvIndexes("https://own.invalid/s", ("https://a.invalid/s",))


def test_variables_win_over_files_and_the_users_over_the_systems(home: Path, environment: dict[str, str]) -> None:
    write(home, FILE)
    Path(environment["XDG_CONFIG_DIRS"], "uv/uv.toml").write_text('index-url = "https://system.invalid/s"\n')
    assert uv_indexes(environment, home).default == "https://own.invalid/s"
    named = {**environment, "UV_DEFAULT_INDEX": "mine=https://env.invalid/s?a=b", "UV_INDEX": "https://x.invalid/s"}
    found = uv_indexes(named, home)
    assert found == UvIndexes("https://env.invalid/s?a=b", ("https://x.invalid/s", "https://extra.invalid/s"))
    (home / ".config/uv/uv.toml").unlink()
    assert uv_indexes(environment, home).default == "https://system.invalid/s"


def test_a_file_that_is_named_is_the_only_one(home: Path, environment: dict[str, str], tmp_path: Path) -> None:
    write(home, FILE)
    (tmp_path / "named.toml").write_text('index-url = "https://named.invalid/s"\n')
    named = {**environment, "UV_CONFIG_FILE": str(tmp_path / "named.toml")}
    assert uv_indexes(named, home) == UvIndexes("https://named.invalid/s")
    assert uv_indexes({**environment, "UV_NO_CONFIG": "1"}, home) == UvIndexes()


def test_a_file_that_is_no_toml_is_an_error_with_its_path(home: Path, environment: dict[str, str]) -> None:
    write(home, "[[index")
    with pytest.raises(ValueError, match=r"uv\.toml"):
        uv_indexes(environment, home)


def test_nothing_is_nothing(home: Path, environment: dict[str, str]) -> None:
    assert uv_indexes(environment, home) == UvIndexes()
