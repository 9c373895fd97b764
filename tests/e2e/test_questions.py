"""What people are asked, end to end: tools that ask, approvals, servers' forms; held open over parks and restarts."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, docker
from tests.e2e.skill_servers import ASKING, PROBE, Watched, call, expert, player, results, stdio, watched

pytestmark = pytest.mark.docker

HOLD_MS = 300


@pytest.fixture(scope="module")
def daemon(home: Path) -> Iterator[Daemon]:
    settings = {
        "jobs.ask_hold_ms": HOLD_MS,
        "templates.base.min_idle": 2,
        "templates.skills.image": "perstack/base:latest",
        "templates.skills.min_idle": 2,
    }
    daemon = Daemon(home, settings)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def ask(call_id: str, question: str) -> dict[str, Any]:
    return call(call_id, "askMove", question=question)


def container_of(job: Watched, role: str = "") -> str:
    """The latest sandbox of the coordinator itself, or of its skill."""
    return str([event for event in job.of("sandboxAssigned") if event.get("role", "") == role][-1]["containerId"])


def gone(container: str) -> bool:
    return container not in docker("ps", "-aq", "--no-trunc").split()


# --- tools that ask ---------------------------------------------------------------------------------------------------
def test_several_questions_of_a_turn_are_open_at_once_and_answered_in_any_order(daemon: Daemon) -> None:
    daemon.script("solo", {"calls": [ask("a", "One?"), ask("b", "Two?"), ask("c", "Three?")]}, {"text": "done"})
    with watched(daemon, daemon.definition(expert("solo") + player("solo"))) as job:
        job.until("callInteractiveTool")
        ids = [question["id"] for question in job.questions(3)]
        assert job.state == "waiting"
        ambiguous = job.ctl("answer", "first")
        assert ambiguous.returncode == 2
        job.answer(ids[2], "three")
        job.answer(ids[0], "--json", '{"question":"one"}')
        job.questions(1)
        job.answer(ids[1], "two")
        assert job.end()["exitCode"] == 0
        assert (job.ctl("answer", ids[1], "two").returncode, job.ctl("answer", ids[1], "2").returncode) == (0, 1)
    answers = [(event["callId"], event["content"]) for event in job.of("questionAnswered")]
    assert answers == [("c", "three"), ("a", '{"question":"one"}'), ("b", "two")]


def test_a_childs_question_is_put_to_the_jobs_caller_and_its_parent_keeps_its_sandbox(daemon: Daemon) -> None:
    toml = expert("solo", delegates=["helper"]) + expert("helper") + player("helper")
    daemon.script("solo", {"calls": [call("d", "helper", query="ask")]}, {"text": "done"})
    daemon.script("helper", {"calls": [ask("q", "Where?")]}, {"text": "they said"})
    with watched(daemon, daemon.definition(toml)) as job:
        job.until("stopRunByInteractiveTool")
        (question,) = job.questions()
        assert (question["expertKey"], job.state) == ("helper", "waiting")
        parent, child = (event["containerId"] for event in job.of("sandboxAssigned"))
        job.until("sandboxReleased")
        assert (gone(parent), job.seen[-1]["expertKey"]) == (False, "helper")
        job.answer("here")
        assert job.end()["exitCode"] == 0
    assert [event["fence"] for event in job.of("sandboxAssigned")] == [1, 1, 2]
    assert "they said" in results(job.seen)["d"]
    assert gone(child)


# --- parked ----------------------------------------------------------------------------------------------------------
def test_a_parked_run_has_no_sandbox_and_goes_on_in_fresh_ones_with_its_skills_restarted(daemon: Daemon) -> None:
    toml = expert("solo") + player("solo") + stdio("solo", "keeper", PROBE, "in_keeper", isolation="own")
    toml += stdio("solo", "beside", PROBE, "in_beside")
    count = "import sys; sys.count = getattr(sys, 'count', 0) + 1; print(sys.count)"
    both, again = ([call(f"k{n}", "in_keeper", code=count), call(f"b{n}", "in_beside", code=count)] for n in (1, 2))
    daemon.script("solo", {"calls": [*both, ask("q", "Go on?")]}, {"calls": again}, {"text": "done"})
    with watched(daemon, daemon.definition(toml)) as job:
        job.until("stopRunByInteractiveTool")
        job.until("sandboxReleased", 2)
        held = {row.get("jobId") for row in daemon.json("sandbox", "ls") if row["state"] == "claimed"}
        assert job.id not in held
        job.answer("yes")
        assert job.end()["exitCode"] == 0
    assert sorted(event["fence"] for event in job.of("sandboxAssigned")) == [1, 1, 2, 2]
    assert {event["cause"] for event in job.of("sandboxReleased")} == {"finished"}
    assert set(results(job.seen).values()) == {"1\n"}


# --- approvals --------------------------------------------------------------------------------------------------------
def test_a_call_that_needs_approval_is_made_when_it_is_given_and_not_before(daemon: Daemon) -> None:
    toml = expert("solo") + stdio("solo", "mail", PROBE, "send", approval="always")
    first = [call("a", "send", code="print('sent a')"), call("b", "send", code="print('sent b')")]
    daemon.script("solo", {"calls": first}, {"text": "done"})
    with watched(daemon, daemon.definition(toml)) as job:
        job.until("approvalRequested", 2)
        one, two = job.questions(2)
        assert (one["kind"], one["tool"]) == ("approval", "send")
        assert job.ctl("answer", one["id"], "yes").returncode == 2
        job.answer(two["id"], "--deny", "--reason", "not on a Friday")
        job.answer(one["id"], "--approve")
        assert job.end()["exitCode"] == 0
    said = results(job.seen)
    assert said["a"] == "sent a\n"
    assert "sent b" not in json.dumps(job.seen[-6:])
    assert "not on a Friday" in json.dumps(job.of("approvalDecided"))


def test_only_the_listed_tools_need_approval_and_the_others_run_first(daemon: Daemon) -> None:
    toml = expert("solo") + stdio("solo", "raw", ASKING, approval=["quick"])
    calls = [call("q", "quick"), call("n", "news", notifications=[])]
    daemon.script("solo", {"calls": calls}, {"text": "done"})
    with watched(daemon, daemon.definition(toml)) as job:
        asked = job.until("approvalRequested")
        assert [result["callId"] for result in asked["results"]] == ["n"]
        job.answer("--approve")
        assert job.end()["exitCode"] == 0
    assert json.loads(results(job.seen)["q"]) == "done"


# --- forms ------------------------------------------------------------------------------------------------------------
FORM = {
    "method": "elicitation/create",
    "params": {
        "message": "Which?",
        "requestedSchema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    },
}


@pytest.mark.parametrize("isolation", ["own", "shared"])
def test_two_forms_of_one_call_are_open_at_once_and_each_answer_reaches_its_own(daemon: Daemon, isolation: str) -> None:
    toml = expert("solo") + stdio("solo", "asks", ASKING, isolation=isolation)
    daemon.script("solo", {"calls": [call("a", "ask", requests=[FORM, FORM])]}, {"text": "done"})
    with watched(daemon, daemon.definition(toml)) as job:
        job.until("elicitationRequested", 2)
        first, second = job.questions(2)
        job.answer(second["id"], "--json", '{"n": 2}')
        job.answer(first["id"], "--json", '{"n": 1}')
        assert job.end()["exitCode"] == 0
    answers = json.loads(results(job.seen)["a"])
    assert [answer["content"] for answer in answers] == [{"n": 1}, {"n": 2}]


def test_a_form_whose_sandbox_is_lost_is_closed_with_it(daemon: Daemon) -> None:
    """Nobody could be given the answer; the same call asks anew where it is made again."""
    toml = expert("solo") + stdio("solo", "asks", ASKING, isolation="own")
    daemon.script("solo", {"calls": [call("a", "ask", requests=[FORM])]}, {"text": "done"})
    with watched(daemon, daemon.definition(toml)) as job:
        job.until("elicitationRequested")
        (question,) = job.questions()
        docker("kill", "--signal", "KILL", container_of(job, "skill:asks"))
        assert job.end()["exitCode"] == 0
        late = job.ctl("answer", question["id"], "--json", '{"n": 1}')
    assert (late.returncode, "closed" in late.stderr) == (1, True)
    assert "may or may not have taken effect" in json.dumps(job.of("resumeToolCalls"))


# --- restarts ---------------------------------------------------------------------------------------------------------
def test_questions_and_answers_outlive_kills_of_the_daemon(daemon: Daemon) -> None:
    toml = expert("solo") + player("solo") + stdio("solo", "mail", PROBE, "send", approval="always")
    turn = [ask("q", "Whom?"), call("s", "send", code="print('sent')")]
    daemon.script("solo", {"calls": turn}, {"text": "done"})
    with watched(daemon, daemon.definition(toml), workspace="kept") as job:
        job.until("stopRunByInteractiveTool")
        before = {question["id"]: question["message"] for question in job.questions(2)}
        daemon.stop(signal.SIGKILL)
        daemon.start()
        assert {question["id"]: question["message"] for question in job.questions(2)} == before
        whom, send = before
        job.answer(whom, "you")
        daemon.stop(signal.SIGKILL)
        daemon.start()
        assert [question["id"] for question in job.questions(1)] == [send]
        assert job.ctl("answer", whom, "you").returncode == 0
        job.answer(send, "--approve")
        assert job.end()["exitCode"] == 0
        assert [event["seq"] for event in job.seen] == list(range(1, len(job.seen) + 1))
    assert results(job.seen)["s"] == "sent\n"
