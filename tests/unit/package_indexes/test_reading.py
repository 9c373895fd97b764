"""The machine's own tools are asked: a real pip with a configuration of the test's, an npm of the test's on PATH."""

import json
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from perstackd.adapters.package_indexes import reading
from perstackd.adapters.package_indexes.reading import read_package_indexes
from perstackd.ports.package_indexes import PackageIndexes


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A machine where nothing is configured."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "pip.conf").write_text("")
    return {
        "HOME": str(tmp_path),
        "PATH": str(tmp_path / "bin"),
        "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
        "UV_NO_CONFIG": "1",
        "SECRET_KEY": "never-to-be-seen",
    }


def npm(tmp_path: Path, program: str) -> None:
    path = tmp_path / "bin/npm"
    path.write_text(f"#!{sys.executable}\n{program}\n")
    path.chmod(0o755)


def python_hosts(indexes: PackageIndexes) -> list[str]:
    return [rule.host for rule in indexes.python.rules]


def test_pips_own_default_is_asked_of_pip(environment: dict[str, str]) -> None:
    indexes = read_package_indexes(environment)
    public, files = python_hosts(indexes)
    assert dict(indexes.python.environment)["PIP_INDEX_URL"] == f"https://{public}/simple"
    assert files != public


def test_pips_configuration_is_read_by_pips_own_rules(environment: dict[str, str], tmp_path: Path) -> None:
    text = "[global]\nindex-url = https://global.invalid/s\n[install]\nindex-url = https://install.invalid/s\n"
    (tmp_path / "pip.conf").write_text(text + "extra-index-url = https://more.invalid/s\n")
    assert python_hosts(read_package_indexes(environment)) == ["install.invalid", "more.invalid"]
    named = {**environment, "PIP_INDEX_URL": "https://env.invalid/s"}
    assert python_hosts(read_package_indexes(named)) == ["env.invalid", "more.invalid"]


def test_a_pip_that_is_told_to_use_no_index_opens_none(environment: dict[str, str]) -> None:
    assert read_package_indexes({**environment, "PIP_NO_INDEX": "1"}).python.rules == ()


def test_uvs_configuration_wins_over_pips(environment: dict[str, str]) -> None:
    named = {**environment, "UV_DEFAULT_INDEX": "https://uv.invalid/s"}
    assert python_hosts(read_package_indexes(named)) == ["uv.invalid"]


def test_npm_is_asked_for_its_registries_and_gets_no_secret(environment: dict[str, str], tmp_path: Path) -> None:
    answer = {"registry": "https://npm.invalid/", "@us:registry": "https://us.invalid/", "audit": True}
    npm(
        tmp_path,
        f"import os, json; json.dump([sorted(os.environ), os.getcwd()], open({str(tmp_path / 'seen')!r}, 'w'))\n"
        f"print({json.dumps(json.dumps(answer))})",
    )
    found = read_package_indexes(environment).npm
    assert [rule.host for rule in found.rules] == ["npm.invalid", "us.invalid"]
    assert dict(found.environment)["npm_config_@us:registry"] == "https://us.invalid/"
    names, directory = json.loads((tmp_path / "seen").read_text())
    assert "SECRET_KEY" not in names
    assert directory == "/"


@pytest.mark.parametrize("program", ["raise SystemExit(1)", "print('[1]')", "print('{')", "print('{\"registry\": 3}')"])
def test_an_npm_that_does_not_answer_as_it_should_opens_nothing(
    environment: dict[str, str], tmp_path: Path, program: str
) -> None:
    npm(tmp_path, program)
    assert read_package_indexes(environment).npm.rules == ()


def test_an_npm_that_hangs_is_given_up(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_SECONDS", 0.5)
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    npm(tmp_path, "import time; time.sleep(60)")
    assert read_package_indexes(environment) == PackageIndexes()


@pytest.mark.parametrize("name", ["npm_config_registry", "NPM_CONFIG_REGISTRY"])
def test_without_npm_the_operator_may_name_its_registry(environment: dict[str, str], name: str) -> None:
    found = read_package_indexes({**environment, name: "https://npm.invalid/"}).npm
    assert [rule.host for rule in found.rules] == ["npm.invalid"]


def test_without_any_tool_it_says_what_to_do(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    with capture_logs() as said:
        assert read_package_indexes(environment) == PackageIndexes()
    remedies = {entry["kind"]: entry["remedy"] for entry in said if entry["log_level"] == "warning"}
    assert "npm_config_registry" in remedies["npm"]
    assert "UV_DEFAULT_INDEX" in remedies["python"]
