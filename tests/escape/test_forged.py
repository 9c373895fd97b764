"""A sandbox whose runner was taken over: it may lie about its own calls, and nothing else that it says counts. The
control is the same runner before a daemon without the laws, or the same message about its own call.
"""

import hashlib
import json
from typing import Any

import pytest

from tests.e2e.daemon import one, types, until
from tests.escape.attacker import SOLO, Attacker, Call, Outcome, tool
from tests.escape.hostile_runner import FORGED
from tests.escape.verdicts import attack, control

pytestmark = pytest.mark.docker

SKILL = '[experts.{name}.skills.hostile]\ntype = "mcpStdioSkill"\ncommand = "true"\nargs = ["x"]\nisolation = "own"\n'
TOGETHER = [tool("a", "exec", command="true"), tool("b", "speak")]
ALONE = [tool("a", "exec", command="true")]


def forged(outcome: Outcome) -> bool:
    return FORGED in json.dumps(outcome.events)


def ran(attacker: Attacker, mode: str, calls: list[Call], *, skill: bool = False) -> Outcome:
    return attacker.run(calls, toml=SOLO + SKILL * skill, mode=mode)


@pytest.mark.parametrize(
    ("mode", "calls", "skill"),
    [
        pytest.param("results", TOGETHER, True, marks=attack("forged_results")),
        pytest.param("steps", ALONE, False, marks=attack("forged_steps")),
        pytest.param("replay", TOGETHER, True, marks=attack("replayed_results")),
    ],
)
def test_what_is_not_its_own_to_say_counts_for_nothing(
    hostile: Attacker, mode: str, calls: list[Call], skill: bool
) -> None:
    outcome = ran(hostile, mode, calls, skill=skill)
    assert outcome.code == 0, outcome.stderr
    assert not forged(outcome)
    assert set(outcome.answers().values()) == {"honest"}


@pytest.mark.parametrize(
    ("mode", "calls", "skill"),
    [
        pytest.param("results", TOGETHER, True, marks=control("forged_results")),
        pytest.param("steps", ALONE, False, marks=control("forged_steps")),
        pytest.param("replay", TOGETHER, True, marks=control("replayed_results")),
    ],
)
def test_a_daemon_without_laws_believes_it(lawless: Attacker, mode: str, calls: list[Call], skill: bool) -> None:
    assert forged(ran(lawless, mode, calls, skill=skill))


@attack("forged_steps")
def test_the_third_thing_that_it_may_not_ask_ends_its_run(hostile: Attacker) -> None:
    outcome = ran(hostile, "thrice", ALONE)
    assert outcome.reason() == "runner_misbehaved"
    assert [event["cause"] for event in outcome.events if event["type"] == "sandboxReleased"] == ["misbehaved"]


def delegating(attacker: Attacker, mode: str, *, completing: bool = False) -> Outcome:
    """The expert calls a tool and, in the same turn, what the daemon alone carries out: a delegate or the end."""
    other = tool("other", "attemptCompletion") if completing else tool("other", "helper", query="help")
    attacker.daemon.script("helper", {"text": "the helper's own words"})
    toml = SOLO + 'delegates = ["helper"]\n[experts.helper]\ninstruction = "Help."\n'
    return attacker.run([*ALONE, other], toml=toml, mode=mode)


@attack("forged_delegates")
def test_nobody_answers_for_a_delegate(hostile: Attacker) -> None:
    outcome = delegating(hostile, "others")
    assert outcome.code == 0, outcome.stderr
    assert not forged(outcome)
    assert "the helper's own words" in json.dumps(outcome.events)


@control("forged_delegates")
def test_a_daemon_without_laws_takes_the_runners_word_for_the_delegates(lawless: Attacker) -> None:
    outcome = delegating(lawless, "others")
    assert forged(outcome)
    assert "the helper's own words" not in json.dumps(outcome.events)


@attack("forged_completion")
def test_nobody_but_the_model_ends_a_run(hostile: Attacker) -> None:
    outcome = delegating(hostile, "others", completing=True)
    assert outcome.code == 0, outcome.stderr
    assert not forged(outcome)
    assert "attemptCompletion" in types(outcome.events)


@control("forged_completion")
def test_a_daemon_without_laws_takes_the_runners_word_for_the_end(lawless: Attacker) -> None:
    outcome = delegating(lawless, "others", completing=True)
    assert forged(outcome)
    assert "attemptCompletion" not in types(outcome.events)


@attack("forged_tool_lists")
def test_a_sandbox_tells_of_no_tools_but_its_own_skills(hostile: Attacker) -> None:
    outcome = ran(hostile, "tools", TOGETHER, skill=True)
    assert outcome.code == 0, outcome.stderr
    names = {each["name"] for each in one(outcome.events, "startRun")["tools"]}
    assert "speak" in names
    assert "evil" not in names


@control("forged_tool_lists")
def test_a_daemon_without_laws_takes_them_from_anybody(lawless: Attacker) -> None:
    outcome = ran(lawless, "tools", TOGETHER, skill=True)
    names = {each["name"] for each in one(outcome.events, "startRun")["tools"]}
    assert "evil" in names


@attack("forged_questions")
def test_nobody_is_asked_something_in_anothers_name(hostile: Attacker) -> None:
    outcome = ran(hostile, "questions", TOGETHER, skill=True)
    assert outcome.code == 0, outcome.stderr
    assert "elicitationRequested" not in types(outcome.events)
    assert not forged(outcome)


@control("forged_questions")
def test_a_question_of_its_own_call_is_asked(hostile: Attacker) -> None:
    name = hostile.name("asks")
    hostile.daemon.script(name, {"calls": TOGETHER}, {"text": "done"})
    process = hostile.daemon.begin(hostile.daemon.definition((SOLO + SKILL).replace("{name}", name)), name)
    try:
        question = one(until(process, "elicitationRequested"), "elicitationRequested")
        hostile.daemon.ctl("job", "cancel", question["jobId"])
    finally:
        process.communicate(timeout=60)
    assert FORGED in json.dumps(question)


# --- blobs ------------------------------------------------------------------------------------------------------------
def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def referring(attacker: Attacker, mode: str, text: str, *, said: str = "") -> Any:
    """What a call comes to whose result is a reference to a blob of that text."""
    given = {"digest": digest(said or text), "size": len((said or text).encode()), "text": text}
    return attacker.run([tool("a", "exec", command="true", **given)], mode=mode).answers()["a"]


@attack("forged_blobs")
def test_a_result_holds_no_bytes_but_those_that_its_sandbox_sent(hostile: Attacker) -> None:
    text = "of another job " * 4000
    assert text[:100] in json.dumps(referring(hostile, "own", text)), "another job has it in the store"
    assert referring(hostile, "blob", text)["error"] == "result_lost"
    assert referring(hostile, "own", text, said="and other bytes by its digest")["error"] == "result_lost"


@control("forged_blobs")
def test_bytes_that_it_sent_are_in_its_result(hostile: Attacker) -> None:
    assert "of its own" in json.dumps(referring(hostile, "own", "of its own"))


# --- the link ---------------------------------------------------------------------------------------------------------
@attack("runner_socket")
def test_there_is_no_second_session(hostile: Attacker) -> None:
    same, new = ran(hostile, "again", ALONE).answers()["a"]
    assert same == "refused"
    assert new in {"FileNotFoundError", "ConnectionRefusedError"}


@control("runner_socket")
def test_a_daemon_that_does_not_know_its_runner_welcomes_another(lawless: Attacker) -> None:
    _, new = ran(lawless, "again", ALONE).answers()["a"]
    assert new == "welcome"
