"""Questions: which is meant, how they are shown, what answers them, and the talk on a terminal."""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from perstackctl.client.errors import InvalidError, PreconditionError
from perstackctl.client.questions import Action, Answer, Question, QuestionKind
from perstackctl.questions.answer import Given, answer
from perstackctl.questions.choose import distinct, looks_like_id, named, only
from perstackctl.questions.dialogue import ask
from perstackctl.questions.fields import fields_of
from perstackctl.questions.show import block, ways
from perstackctl.questions.terminal import LeftOpen
from perstackctl.terminal import width
from tests.fakes.event_log import JOB
from tests.fakes.stories import DATABASE

pytestmark = pytest.mark.anyio
TOOL = Question("R1.1-1", QuestionKind.TOOL, "R1", "bot", "board", "askMove", {"board": "X"}, "Your move?")
APPROVAL = Question("R2.13-1", QuestionKind.APPROVAL, "R2", "bot", "gh", "createIssue", {"title": "t"}, "May it?")
SCHEMA: dict[str, Any] = DATABASE["answerSchema"]
ELICITATION = Question("R1.2-1e1", QuestionKind.ELICITATION, "R1", "bot", "db", "query", {}, "Which?", SCHEMA)
ALL = (TOOL, APPROVAL, ELICITATION)


# --- which one ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "found"),
    [("R1.1-1", [TOOL]), ("1-1", [TOOL]), ("3-1", [APPROVAL]), ("2-1e1", [ELICITATION]), ("9-9", []), ("-1", ALL[:2])],
)
def test_a_question_is_named_by_its_id_or_an_end_of_it(given: str, found: Sequence[Question]) -> None:
    assert list(named(ALL, given)) == list(found)


def test_the_shortest_name_that_means_one_question_is_shown_for_it() -> None:
    twin = replace(TOOL, id="01JD3Z00000000000000000PAR.1-1")
    other = replace(TOOL, id="01JD3Z00000000000000000PAS.1-1")
    assert distinct(TOOL, ALL) == "1-1"
    assert [distinct(each, (twin, other, APPROVAL)) for each in (twin, other, APPROVAL)] == [
        "0PAR.1-1",
        "0PAS.1-1",
        "13-1",
    ]
    assert named((twin, other), distinct(other, (twin, other))) == (other,)
    assert looks_like_id(distinct(other, (twin, other)))


def test_texts_are_told_from_ids() -> None:
    ids = ["3-1", "3-1e2", "01JD3Z00000000000000000PAR.3-1"]
    assert all(map(looks_like_id, ids))
    assert not any(map(looks_like_id, ["b2", "3-", "3-1x", "yes 3-1", "", "-1", "\u0663-\u0661"]))


def test_without_a_name_one_question_must_be_open() -> None:
    assert only([TOOL], JOB) is TOOL
    with pytest.raises(PreconditionError, match="asks nothing now"):
        only([], JOB)
    with pytest.raises(InvalidError, match="asks 3 questions: 1-1, 13-1, 2-1e1; name one"):
        only(ALL, JOB)
    twins = [TOOL, replace(TOOL, id="R7.1-1")]
    with pytest.raises(InvalidError, match=r"R1\.1-1, R7\.1-1"):
        only(twins, JOB)


# --- answers from the command line ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("question", "given", "expected"),
    [
        (TOOL, Given(text="b2"), Answer(Action.ANSWER, b'"b2"')),
        (TOOL, Given(text="Grüße"), Answer(Action.ANSWER, '"Grüße"'.encode())),
        (TOOL, Given(document='{"b": 1, "a": 2}'), Answer(Action.ANSWER, b'{"a":2,"b":1}')),
        (APPROVAL, Given(approve=True), Answer(Action.APPROVE)),
        (APPROVAL, Given(deny=True), Answer(Action.DENY)),
        (APPROVAL, Given(deny=True, reason="no"), Answer(Action.DENY, b'"no"')),
        (ELICITATION, Given(document=f'{{"n": {2**64 + 1}}}'), Answer(Action.ACCEPT, b'{"n":18446744073709551617}')),
        (ELICITATION, Given(decline=True), Answer(Action.DECLINE)),
    ],
)  # fmt: skip
def test_an_answer_is_what_its_question_takes(question: Question, given: Given, expected: Answer) -> None:
    assert answer(given, question) == expected


@pytest.mark.parametrize(
    ("question", "given", "said"),
    [
        (TOOL, Given(approve=True), "is answered with a text, --json or --file, not --approve"),
        (TOOL, Given(text="  "), "the answer is empty"),
        (TOOL, Given(text="x" * 300_000), "larger than the 256 KiB"),
        (TOOL, Given(text="a\udcff"), "not UTF-8"),
        (APPROVAL, Given(text="yes"), "asks for an approval: --approve or --deny, not TEXT"),
        (APPROVAL, Given(decline=True), "--approve or --deny, not --decline"),
        (ELICITATION, Given(text="staging"), "--json OBJECT, --file PATH or --decline, not TEXT"),
        (ELICITATION, Given(document="[1]"), "has to be a JSON object"),
        (ELICITATION, Given(document="{"), "is not JSON"),
        (ELICITATION, Given(document='{"a": NaN}'), "NaN is not JSON"),
        (ELICITATION, Given(document="[" * 200_000), "JSON|nested too deep"),
        (replace(TOOL, kind=QuestionKind.UNSPECIFIED), Given(text="x"), "use a newer one"),
    ],
)
def test_an_answer_that_does_not_fit_says_what_would(question: Question, given: Given, said: str) -> None:
    with pytest.raises(InvalidError, match=said):
        answer(given, question)


def test_two_answers_are_one_too_many() -> None:
    with pytest.raises(InvalidError, match="TEXT and --approve are two answers"):
        Given(text="x", approve=True)
    with pytest.raises(InvalidError, match="--reason belongs to --deny"):
        Given(approve=True, reason="x")


def test_a_file_is_a_text_for_a_tool_and_json_for_a_server(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text('{"a": 1}')
    assert answer(Given(file=str(file)), TOOL).content == b'"{\\"a\\": 1}"'
    assert answer(Given(file=str(file)), ELICITATION).content == b'{"a":1}'
    with pytest.raises(InvalidError, match="is not there"):
        answer(Given(file=str(tmp_path / "none")), TOOL)


# --- shown ----------------------------------------------------------------------------------------------------------
def test_all_of_a_question_stands_behind_a_bar() -> None:
    question = replace(APPROVAL, arguments={"body": "one\ntwo", "labels": ["bug"], "n": 1})
    assert block(question, JOB).split("\n") == [
        "? bot wants to call gh.createIssue  [13-1]",
        "  │ May it?",
        "  │",
        "  │ body:",
        "  │ | one",
        "  │ | two",
        '  │ labels: ["bug"]',
        "  │ n: 1",
    ]


def test_what_a_terminal_would_break_stands_behind_the_bar_as_well() -> None:
    question = replace(APPROVAL, arguments={"body": "one " * 20 + "x" * 90, "wide": "\u5b57" * 50})
    shown = block(question, JOB, columns=40).split("\n")
    assert all(width(row) <= 40 for row in shown[1:])
    assert all(row.startswith("  │") for row in shown[1:])
    body = "".join(row.removeprefix("  │").removeprefix(" ") for row in shown[3:])
    assert body == "body: " + "one " * 20 + "x" * 90 + "wide: " + "\u5b57" * 50


def test_what_the_message_says_is_not_said_again() -> None:
    asked = replace(TOOL, message="Where?", arguments={"question": "Where?", "board": "X"})
    assert block(asked, JOB).split("\n")[1:] == ["  │ Where?", "  │", "  │ board: X"]
    assert block(replace(asked, arguments={"question": "Where?"}), JOB).split("\n")[1:] == ["  │ Where?"]


def test_what_is_decided_on_hides_nothing_and_cannot_act_on_the_terminal() -> None:
    evil = "rm -rf /\x1b[1K\rls\u202e\u2066\nMay it? (y/n) y"
    question = replace(
        APPROVAL, skill=evil, tool=evil, expert_key=evil, message=evil, arguments={evil: evil, "b": [evil]}
    )
    shown = block(question, JOB)
    assert not {char for char in shown if char != "\n" and (ord(char) < 32 or char in "\x7f\x9b\u202e\u2066")}
    assert "rm -rf /\\x1b[1K\\rls\\u202e" in shown
    assert all(row.startswith(("? ", "  │")) for row in shown.split("\n"))


def test_a_very_long_question_says_that_it_is_cut() -> None:
    for arguments in ({"a": "x" * 5000}, {"a": "x\n" * 500}):
        shown = block(replace(APPROVAL, arguments=arguments), JOB)
        assert len(shown) < 5000
        assert shown.endswith(f"this is not all of it; see perstackctl job questions {JOB} -o json")


def test_each_kind_has_its_commands() -> None:
    assert ways(TOOL, "perstackctl job answer J") == ("perstackctl job answer J 1-1 TEXT",)
    assert [way.split()[-1] for way in ways(APPROVAL, "c")] == ["--approve", "TEXT"]
    assert [way.split()[2] for way in ways(ELICITATION, "c")] == ["--json", "--decline"]


# --- asked on a terminal --------------------------------------------------------------------------------------------
@dataclass
class Typist:
    """Types the lines it was given, then leaves; keeps what it was shown."""

    lines: deque[str]
    shown: list[str] = field(default_factory=list)

    def say(self, text: str = "") -> None:
        self.shown.append(text)

    def forget(self) -> None:
        pass

    async def line(self, prompt: str) -> str:
        self.shown.append(prompt)
        if not self.lines:
            raise LeftOpen
        return self.lines.popleft()


async def talk(question: Question, *lines: str) -> tuple[Answer, list[str]]:
    typist = Typist(deque(lines))
    said = await ask(typist, question, JOB)
    assert not typist.lines
    return said, typist.shown


async def test_a_text_is_asked_until_there_is_one() -> None:
    said, shown = await talk(TOOL, "", "b2")
    assert said == Answer(Action.ANSWER, b'"b2"')
    assert "  the answer is empty" in shown


async def test_an_approval_has_no_default() -> None:
    said, shown = await talk(APPROVAL, "", "yep", "Y")
    assert said == Answer(Action.APPROVE)
    assert shown.count("  type y or n") == 2


async def test_a_denial_asks_for_the_reason() -> None:
    assert (await talk(APPROVAL, "n", " not today "))[0] == Answer(Action.DENY, b'"not today"')
    assert (await talk(APPROVAL, "no", ""))[0] == Answer(Action.DENY)


async def test_fields_are_asked_one_by_one_and_again_when_they_do_not_fit() -> None:
    said, shown = await talk(ELICITATION, "y", "", "prod", "live", "n", "500", "5", "")
    assert said.action is Action.ACCEPT
    assert json.loads(said.content) == {"database": "live", "dry": False, "rows": 5}
    assert "  this is required" in shown
    assert "  'prod' is none of the choices; type its number or its name" in shown
    assert "  1 to 100, please" in shown
    assert "rows (whole number, 1 to 100, may be empty) [10]: " in shown


async def test_defaults_are_taken_by_enter() -> None:
    said, _ = await talk(ELICITATION, "", "1", "", "", "")
    assert json.loads(said.content) == {"database": "staging", "dry": True, "rows": 10}


async def test_a_server_can_be_declined() -> None:
    assert (await talk(ELICITATION, "d"))[0] == Answer(Action.DECLINE)


async def test_a_schema_with_more_in_it_is_answered_as_json() -> None:
    deep = replace(ELICITATION, answer_schema={"type": "object", "properties": {"a": {"type": "object"}}})
    said, shown = await talk(deep, "y", "{", "[]", '{"a": {}}')
    assert said == Answer(Action.ACCEPT, b'{"a":{}}')
    assert sum("JSON" in row for row in shown) >= 4


async def test_leaving_leaves_it_open() -> None:
    with pytest.raises(LeftOpen):
        await talk(TOOL)


# --- fields ---------------------------------------------------------------------------------------------------------
def fields(**members: Any) -> dict[str, Any]:
    return {found.name: found for found in fields_of({"type": "object", "properties": members}) or ()}


def test_choices_come_from_every_form_that_mcp_has() -> None:
    found = fields(
        plain={"enum": ["a", "b"]},
        named={"type": "string", "enum": ["a", "b"], "enumNames": ["First", "Second"]},
        titled={"type": "string", "oneOf": [{"const": "a", "title": "First"}, {"const": "b"}]},
        several={"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "default": ["a"]},
    )
    assert [found[name].read("2") for name in ("plain", "named", "titled")] == ["b", "b", "b"]
    assert found["named"].read("First") == "a"
    assert found["several"].read("1, b") == ["a", "b"]
    assert found["several"].read("") == ["a"]


@pytest.mark.parametrize(
    ("schema", "typed"),
    [
        ({"type": "integer"}, "1.5"),
        ({"type": "number"}, "nan"),
        ({"type": "number", "minimum": 0}, "-1"),
        ({"type": "boolean"}, "maybe"),
        ({"type": "string", "maxLength": 3}, "long"),
        ({"type": "string", "minLength": 3}, "a"),
        ({"type": "integer"}, "9" * 5000),
    ],
)
def test_what_does_not_fit_a_field_is_refused(schema: dict[str, Any], typed: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        fields(a=schema)["a"].read(typed)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array"},
        {"type": "object", "properties": []},
        {"type": "object", "properties": {"a": 7}},
        {"type": "object", "properties": {"a": {"type": ["string", "null"]}}},
        {"type": "object", "properties": {"a": {"type": "array", "items": 7}}},
        {"type": "object", "properties": {str(number): {} for number in range(100)}},
    ],
)
def test_other_schemas_have_no_fields(schema: dict[str, Any]) -> None:
    assert fields_of(schema) is None


@pytest.mark.parametrize("default", [True, "x", None, [1], {"a": 1}, 1e400])
def test_a_default_that_could_not_be_typed_is_none(default: Any) -> None:
    assert fields(a={"type": "integer", "default": default})["a"].default is None
    assert fields(a={"type": "number", "default": default})["a"].default is None
