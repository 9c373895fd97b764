"""What `perstackctl expert new` writes, and what it leaves alone."""

import os
import re
import tomllib
from pathlib import Path

import pytest

from perstackctl.client import ConflictError, InvalidError, PreconditionError
from perstackctl.request.skeleton import write
from perstackd.adapters.definition.parser import TomlDefinitions

KINDS = ("minimal", "team", "skill")


def files(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["coach", "@acme/coach.v2", "a" * 500])
def test_what_is_written_has_nothing_to_complain_about(tmp_path: Path, kind: str, name: str) -> None:
    assert write(name, kind, tmp_path)[0] == f"Wrote {tmp_path}/perstack.toml"
    parsed = TomlDefinitions().parse((tmp_path / "perstack.toml").read_text(), "perstack.toml")
    assert parsed.findings == ()
    assert parsed.definition is not None
    assert parsed.definition.experts[0].key == name


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_comments_can_be_switched_on(tmp_path: Path, kind: str) -> None:
    write("coach", kind, tmp_path)
    text = (tmp_path / "perstack.toml").read_text()
    on = re.sub(r"^# (?=[a-zA-Z]+ = )", "", text, flags=re.MULTILINE)
    assert on.count("\n# ") < text.count("\n# ")
    findings = TomlDefinitions().parse(on, "perstack.toml").findings
    assert [f.message for f in findings if "another-expert" not in f.message and "close_issue" not in f.message] == []


def test_a_second_expert_is_added_and_the_first_stays_as_it_is(tmp_path: Path) -> None:
    write("coach", "minimal", tmp_path)
    before = (tmp_path / "perstack.toml").read_text()
    assert write("team", "team", tmp_path) == [f"Added team to {tmp_path}/perstack.toml"]
    after = (tmp_path / "perstack.toml").read_text()
    assert after.startswith(before)
    assert list(tomllib.loads(after)["experts"]) == ["coach", "team", "team-checker"]
    assert TomlDefinitions().parse(after, "perstack.toml").findings == ()


def test_a_file_without_a_line_end_at_its_end_is_added_to(tmp_path: Path) -> None:
    (tmp_path / "perstack.toml").write_text('[experts.a]\ninstruction = "x"')
    write("b", "minimal", tmp_path)
    assert list(tomllib.loads((tmp_path / "perstack.toml").read_text())["experts"]) == ["a", "b"]


@pytest.mark.parametrize(("present", "new"), [("coach", "coach"), ("coach-checker", "coach")])
def test_an_expert_that_is_there_is_never_overwritten(tmp_path: Path, present: str, new: str) -> None:
    write(present, "minimal", tmp_path)
    before = files(tmp_path)
    with pytest.raises(ConflictError, match=rf"has an expert '{present}' already") as there:
        write(new, "team", tmp_path)
    assert (there.value.reason, there.value.exit_code) == ("expert_exists", 1)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("x = ", InvalidError, "is not TOML"),
        ('experts = { a = { instruction = "x" } }\n', PreconditionError, 'add this yourself:\n\n[experts."coach"]'),
        ("experts = 1\n", PreconditionError, "nothing was written"),
    ],
)
def test_a_file_that_cannot_be_added_to_is_left_alone(
    tmp_path: Path, text: str, error: type[Exception], says: str
) -> None:
    (tmp_path / "perstack.toml").write_text(text)
    with pytest.raises(error) as refused:
        write("coach", "minimal", tmp_path)
    assert says in str(refused.value)
    assert files(tmp_path) == {"perstack.toml": text}


@pytest.mark.parametrize("name", ["", "Coach", "a b", "@a/b/c", "../x", "-a", 'a"b', "a" * 501, "a@1.0.0"])
def test_a_name_that_no_expert_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidError, match="is not an expert's name"):
        write(name, "minimal", tmp_path)
    assert files(tmp_path) == {}


def test_a_skill_with_a_secret_keeps_env_files_out_of_the_repository(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("dist\n.env")
    assert write("coach", "skill", tmp_path)[1] == f"Added .env.local to {tmp_path}/.gitignore"
    assert files(tmp_path)[".gitignore"] == "dist\n.env\n.env.local\n"
    write("other", "skill", tmp_path)
    assert files(tmp_path)[".gitignore"] == "dist\n.env\n.env.local\n"


@pytest.mark.parametrize("kind", ["minimal", "team"])
def test_without_a_secret_nothing_but_the_definition_is_written(tmp_path: Path, kind: str) -> None:
    write("coach", kind, tmp_path)
    assert list(files(tmp_path)) == ["perstack.toml"]


def test_a_directory_is_made_when_it_is_not_there(tmp_path: Path) -> None:
    write("coach", "minimal", tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "perstack.toml").is_file()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PreconditionError, match="choose another place with --dir"):
        write("coach", "minimal", tmp_path / "file")
    os.symlink(tmp_path / "gone", tmp_path / "perstack.toml")
    with pytest.raises(PreconditionError, match="cannot be written: File exists"):
        write("coach", "minimal", tmp_path)
    assert not (tmp_path / "gone").exists()
