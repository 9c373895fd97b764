import io
import os
from pathlib import Path

import pytest

from perstackctl.client import Finding, InvalidError, Severity, Workspace, WorkspaceKind
from perstackctl.request.definition import find, load, located, shown_path
from perstackctl.request.environment import EnvFile, collect, env_files, look_up
from perstackctl.request.query import read_query
from perstackctl.request.workspace import choose


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


# --- definition -----------------------------------------------------------------------------------------------------
def test_the_nearest_definition_upwards_is_found(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "perstack.toml").write_text("outer")
    assert load("", below).path == tmp_path / "perstack.toml"
    (tmp_path / "a" / "perstack.toml").write_text("inner")
    found = load("", below)
    assert (found.path, found.definition.toml) == (tmp_path / "a" / "perstack.toml", "inner")
    assert found.definition.source == str(found.path)


def test_without_a_definition_the_error_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidError) as missing:
        find(tmp_path)
    assert str(tmp_path) in missing.value.message
    assert str(tmp_path.parent) in missing.value.message
    assert "no registry is configured" in missing.value.message
    assert "--config" in missing.value.message


def test_the_search_ends_where_a_project_ends(tmp_path: Path) -> None:
    below = tmp_path / "project" / "src"
    below.mkdir(parents=True)
    (tmp_path / "perstack.toml").write_text("of somebody else")
    (tmp_path / "project" / ".git").mkdir()
    with pytest.raises(InvalidError) as missing:
        find(below)
    assert f"in {below}, {below.parent}, and" in missing.value.message
    assert "perstackctl expert new NAME" in missing.value.message
    (tmp_path / "project" / "perstack.toml").write_text("ours")
    assert find(below) == tmp_path / "project" / "perstack.toml"


def test_a_strangers_definition_above_is_not_taken_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    strange = tmp_path / "perstack.toml"
    strange.write_text("x")
    os.chown(strange, 4242, 4242)
    with pytest.raises(InvalidError, match=r"belongs to uid 4242 .*: --config ") as foreign:
        find(mine)
    assert foreign.value.reason == "definition_foreign"
    assert load("../perstack.toml", mine).path == strange
    assert find(tmp_path) == strange
    monkeypatch.setenv("SUDO_UID", "4242")
    assert find(mine) == strange


def test_a_definition_of_the_owner_of_this_directory_is_taken(tmp_path: Path) -> None:
    sub = tmp_path / "sub"
    sub.mkdir()
    (tmp_path / "perstack.toml").write_text("x")
    for path in (sub, tmp_path / "perstack.toml"):
        os.chown(path, 4242, 4242)
    assert find(sub) == tmp_path / "perstack.toml"


def test_a_path_is_shown_as_short_as_it_can_be_typed(tmp_path: Path) -> None:
    assert shown_path(tmp_path / "a" / "perstack.toml", tmp_path) == "a/perstack.toml"
    assert shown_path(tmp_path / "perstack.toml", tmp_path / "a") == str(tmp_path / "perstack.toml")


def test_a_named_definition_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=r"other\.toml is not there"):
        load("other.toml", tmp_path)
    with pytest.raises(InvalidError, match="is not a file"):
        load(".", tmp_path)


def test_a_definition_that_is_not_utf8_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "perstack.toml").write_bytes(b"a = 1\nb = '\xe9'\n")
    with pytest.raises(InvalidError, match=r"byte 11 \(line 2\) is 0xe9"):
        load("", tmp_path)


def test_a_definition_over_4_mib_is_refused(tmp_path: Path) -> None:
    (tmp_path / "perstack.toml").write_bytes(b"#" * ((4 << 20) + 1))
    with pytest.raises(InvalidError, match="larger than the 4 MiB"):
        load("", tmp_path)


def test_a_definition_through_a_link_has_its_real_directory(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "perstack.toml").write_text("x")
    (tmp_path / "link").symlink_to(real)
    assert load("link/perstack.toml", tmp_path).directory == real


def test_findings_are_written_as_compilers_write_them() -> None:
    finding = Finding(Severity.WARNING, "unknown key", 3, 1, "experts.a.skils")
    assert located(finding, "p.toml") == "p.toml:3:1: warning: unknown key [experts.a.skils]"
    assert located(Finding(Severity.ERROR, "empty"), "p.toml") == "p.toml: error: empty"


# --- query ----------------------------------------------------------------------------------------------------------
def test_a_query_is_the_argument_or_standard_input() -> None:
    assert read_query("do it", Terminal()) == "do it"
    assert read_query("-", io.BytesIO("Grüße\n".encode())) == "Grüße\n"
    assert read_query(None, io.BytesIO(b"piped")) == "piped"


def test_without_a_query_nothing_waits_at_a_terminal() -> None:
    with pytest.raises(InvalidError, match="there is no query"):
        read_query(None, Terminal())


@pytest.mark.parametrize(("argument", "piped"), [("  ", b""), (None, b""), ("-", b"\n")])
def test_an_empty_query_is_refused(argument: str | None, piped: bytes) -> None:
    with pytest.raises(InvalidError, match="the query is empty"):
        read_query(argument, io.BytesIO(piped))


def test_a_query_that_is_not_utf8_names_the_byte() -> None:
    with pytest.raises(InvalidError, match=r"not UTF-8: byte 3 \(line 2\) is 0xff"):
        read_query("-", io.BytesIO(b"ab\n\xff"))
    with pytest.raises(InvalidError, match="character 1 is byte 0xff"):
        read_query("a\udcff", Terminal())


def test_a_huge_query_is_refused_with_the_limit_and_read_no_further() -> None:
    source = io.BytesIO(b"x" * (2 << 20))
    with pytest.raises(InvalidError, match="larger than the 1 MiB"):
        read_query("-", source)
    assert source.tell() == (1 << 20) + 1
    with pytest.raises(InvalidError, match=r"1,048,576 \(1 MiB\) are allowed"):
        read_query("é" * (1 << 20), Terminal())


# --- workspace ------------------------------------------------------------------------------------------------------
def test_the_workspace_is_a_path_a_name_or_ephemeral(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub")

    def chosen(text: str) -> Workspace:
        return choose(text, tmp_path / "sub", tmp_path, read_only=False)

    assert chosen("") == Workspace(WorkspaceKind.PATH, str(tmp_path / "sub"))
    assert chosen(".") == Workspace(WorkspaceKind.PATH, str(tmp_path))
    assert chosen("./link") == Workspace(WorkspaceKind.PATH, str(tmp_path / "sub"))
    assert chosen(str(tmp_path)) == Workspace(WorkspaceKind.PATH, str(tmp_path))
    assert chosen("reports") == Workspace(WorkspaceKind.NAMED, "reports")
    assert chosen("ephemeral") == Workspace(WorkspaceKind.EPHEMERAL)


def test_read_only_holds_for_every_kind(tmp_path: Path) -> None:
    kinds = ("", ".", "name", "ephemeral")
    assert all(choose(text, tmp_path, tmp_path, read_only=True).read_only for text in kinds)


def test_a_workspace_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="is not a directory"):
        choose("./none", tmp_path, tmp_path, read_only=False)


# --- environment ----------------------------------------------------------------------------------------------------
def files(tmp_path: Path, **contents: str) -> tuple[EnvFile, ...]:
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
    return tuple(EnvFile(tmp_path / name, required=True) for name in contents)


def test_only_required_names_are_sent(tmp_path: Path) -> None:
    read = files(tmp_path, env="TOKEN=t\nOTHER=o\n")
    assert collect(("TOKEN",), read, {"HOME": "/root"}) == {"TOKEN": "t"}
    assert collect((), read, {"TOKEN": "x"}) == {}


def test_later_files_win_and_the_environment_wins_over_files(tmp_path: Path) -> None:
    read = files(tmp_path, first="A=1\nB=1\nC=1\n", second="B=2\nC=2\n")
    assert collect(("A", "B", "C"), read, {"C": "3"}) == {"A": "1", "B": "2", "C": "3"}


def test_values_are_taken_as_they_are_written(tmp_path: Path) -> None:
    read = files(tmp_path, env="export A='x y' # comment\nB=\"${HOME}/$A\"\nEMPTY=\n")
    assert collect(("A", "B", "EMPTY"), read, {"HOME": "/root"}) == {"A": "x y", "B": "${HOME}/$A", "EMPTY": ""}


def test_quotes_comments_export_and_several_lines_are_read_as_other_tools_read_them(tmp_path: Path) -> None:
    text = "\ufeffexport A='x # y'\r\nB=\"two\\nlines\"\nC = plain # said\nD=\"first\nsecond\"\n# E=1\nF='it\\'s'\n"
    found = look_up(("A", "B", "C", "D", "E", "F"), files(tmp_path, env=text), {})
    assert found.values == {"A": "x # y", "B": "two\nlines", "C": "plain", "D": "first\nsecond", "F": "it's"}
    assert set(found.origins.values()) == {f"{tmp_path}/env"}


def test_where_a_value_is_from_is_known_and_the_value_is_not_shown(tmp_path: Path) -> None:
    read = files(tmp_path, first="A=secret\nB=secret\nX=unasked\n", second="B=secret\n")
    found = look_up(("A", "B", "C", "D"), read, {"C": "secret"})
    assert found.origins == {"A": f"{tmp_path}/first", "B": f"{tmp_path}/second", "C": "environment"}
    assert "X" not in found.values
    assert "secret" not in repr(found)


def test_a_line_that_cannot_be_read_is_told_without_its_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = files(tmp_path, env='A=1\nB="not closed, secret\n')
    assert collect(("A",), read, {}) == {"A": "1"}
    said = capsys.readouterr()
    assert f"{tmp_path}/env:2: not NAME=VALUE, and left out" in said.err
    assert "secret" not in said.err + said.out


def test_missing_names_are_told_all_at_once_with_where_it_was_looked(tmp_path: Path) -> None:
    read = (*files(tmp_path, env="A\nB=\n"), EnvFile(tmp_path / "gone", required=False))
    with pytest.raises(InvalidError) as missing:
        collect(("A", "B", "C"), read, {})
    assert "no value for A, C," in missing.value.message
    assert f"{tmp_path}/env and" not in missing.value.message
    assert f"in {tmp_path}/env, {tmp_path}/gone (not there)" in missing.value.message
    assert missing.value.reason == "env_missing"


def test_a_file_that_the_caller_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="none is not there"):
        collect(("A",), (EnvFile(tmp_path / "none", required=True),), {})


def test_the_callers_files_replace_the_definitions_and_count_from_here(tmp_path: Path) -> None:
    cwd, directory = tmp_path / "here", tmp_path / "there"
    assert env_files((), (".env",), cwd, directory) == (EnvFile(directory / ".env", required=False),)
    assert env_files(("ci.env",), (".env",), cwd, directory) == (EnvFile(cwd / "ci.env", required=True),)


def test_a_device_or_a_pipe_named_by_a_definition_is_never_opened() -> None:
    with pytest.raises(InvalidError, match="/dev/zero"):
        collect(("A",), (EnvFile(Path("/dev/zero"), required=False),), {})


def test_values_that_cannot_be_sent_are_named_without_being_shown(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="the value of A is 65,537 bytes") as large:
        collect(("A",), (), {"A": "s" * 65_537})
    assert "sss" not in large.value.message
    with pytest.raises(InvalidError, match="the value of A is not UTF-8"):
        collect(("A",), (), {"A": "\udcff"})
