"""What the examples say of themselves, read from their files."""

import json

import pytest

from examples import embed, script
from examples.script import EXAMPLES
from perstackd.adapters.definition.parser import TomlDefinitions

SERVERS = {"github-issue-bot": "issue_server.py", "gmail-assistant": "mail_server.py"}


def test_the_examples_are_those_that_the_design_names() -> None:
    assert script.names() == ["bug-finder", "fitness-assistant", "github-issue-bot", "gmail-assistant", "tic-tac-toe"]
    assert [path.parent.name for path in sorted(EXAMPLES.glob("*/perstack.toml"))] == script.names()


@pytest.mark.parametrize("name", script.names())
def test_an_example_is_told_of_and_its_definition_has_nothing_to_find(name: str) -> None:
    readme = (EXAMPLES / name / "README.md").read_text()
    for needed in ("perstackctl", "examples.play" if name != "fitness-assistant" else "make demo", "key"):
        assert needed in readme
    parsed = TomlDefinitions().parse((EXAMPLES / name / "perstack.toml").read_text(), name)
    assert parsed.findings == ()
    assert parsed.definition is not None
    assert parsed.definition.expert(script.read(EXAMPLES / name).expert) is not None


@pytest.mark.parametrize("name", script.names())
def test_every_turn_of_a_script_is_recorded_once(name: str) -> None:
    example = script.read(EXAMPLES / name)
    recorded = [json.loads(line) for line in example.conversation.read_text().splitlines()]
    assert sorted(_said(turn) for turn in example.turns) == sorted(_spoken(line) for line in recorded)
    assert len({line["digest"] for line in recorded}) == len(recorded)


def _said(turn: object) -> tuple[str, str]:
    assert isinstance(turn, dict)
    return turn["expert"], turn["text"].strip()


def _spoken(line: dict[str, object]) -> tuple[str, str]:
    turn = line["turn"]
    assert isinstance(turn, dict)
    return str(line["expert"]), turn["parts"][0]["text"]


@pytest.mark.parametrize(("name", "server"), SERVERS.items())
def test_a_definition_carries_its_server_word_for_word(name: str, server: str) -> None:
    carried = embed.carried((EXAMPLES / name / "perstack.toml").read_text())
    assert carried == (EXAMPLES / name / server).read_text(), "make conversations writes it anew"
    compile(carried, server, "exec")
