import io
from typing import Any

import pytest

from perstackctl.watch.plain import PlainLog
from perstackctl.watch.trace import Trace
from tests.fakes.event_log import PARENT, EventLog, Item
from tests.fakes.stories import DATABASE, ISSUE, MOVE, story
from tests.unit.ctl.test_trace import of

STORY = """\
    0.000s  job 01JD3Z0000000000000000JOB0 created: fitness-assistant, anthropic/claude-sonnet-5, workspace named:demo
    0.020s  fitness-assistant: got sandbox 01JD3ZSANDBOXPAR0000000000 (base)
    0.030s  fitness-assistant #1: started: Start today's session
    0.040s  fitness-assistant #1: asks claude-sonnet-5
    0.440s  fitness-assistant #1: says: I look at the log first.
    0.440s  fitness-assistant #1: calls readTextFile path=./fitness-log.md
    0.470s  fitness-assistant #1: readTextFile done in 30ms: # Fitness log 2024-11-18 slept well
    0.480s  fitness-assistant #2: asks claude-sonnet-5
    0.890s  fitness-assistant #2: delegates to pro-trainer: A menu for a rested person
    0.900s    pro-trainer: got sandbox 01JD3ZSANDBOXCHD0000000000 (base)
    0.910s    pro-trainer #1: started: A menu for a rested person
    0.920s    pro-trainer #1: asks claude-sonnet-5
    1.220s    pro-trainer #1: completed after 320ms, 1 step, 1.0k tokens in, 50 out
    1.250s  fitness-assistant #3: asks claude-sonnet-5
    1.650s  fitness-assistant #3: calls appendTextFile path=./fitness-log.md text=rowing
    1.680s  fitness-assistant #3: appendTextFile failed in 30ms: EACCES: read-only
    1.980s  fitness-assistant #4: completed after 2.0s, 4 steps, 4.0k tokens in, 200 out
    2.000s  job 01JD3Z0000000000000000JOB0 completed after 2.0s, 5.0k tokens in, 250 out

Ten minutes of rowing, then rest.
"""


EVERY: dict[str, dict[str, Any]] = {
    "callInteractiveTool": {"questions": [MOVE]},
    "approvalRequested": {"question": ISSUE},
    "elicitationRequested": {"elicitation": 1, "question": DATABASE},
    "questionAnswered": {"action": "answer", "callId": "c", "content": "b2", "id": "1-1", "kind": "tool"},
    "approvalDecided": {"approved": True, "callId": "c", "id": "2-1", "reason": "fine"},
    "skillToolsChanged": {"added": ["a"], "changed": ["c"], "removed": ["b"], "skill": "db"},
    "toolRenamed": {"shown": "db_query", "skill": "db", "tool": "query"},
    "reasoningMapped": {"note": "medium instead of 4096 tokens"},
    "contextCompacted": {"beforeTokens": 150_000, "keptFrom": 42, "summary": "They rowed.", "usage": {}},
    "compactionFailed": {"delayMs": 2000, "message": "overloaded", "reason": "model_busy", "usage": {}},
    "historyInherited": {"messages": [{}], "parentJobId": "J", "parentRunId": "R", "parentSeq": 9, "start": {}},
}


def spoiled(value: Any, text: str) -> Any:
    """The value with every text in it, keys left aside, replaced."""
    if isinstance(value, dict):
        return {key: spoiled(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [spoiled(item, text) for item in value]
    return text if isinstance(value, str) else value


def printed(items: list[Item]) -> str:
    out = io.StringIO()
    log = PlainLog(out)
    log.close(log.paint(Trace(), of(items)))
    return out.getvalue()


def test_a_job_reads_as_a_log() -> None:
    assert printed(story()) == STORY


def test_what_models_and_tools_write_cannot_act_on_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x1b[2Jx\r\x9b31m\u202e\n"
    log = EventLog()
    log.created(expert=evil, query=evil)
    log.started(PARENT, evil)
    log.turn(PARENT, 1, [("c", evil, {evil: evil})], evil)
    log.results(PARENT, 1, [("c", evil, True)])
    log.add("egressDenied", {"host": evil, "port": 443, "reason": evil}, run=PARENT, step=1)
    log.add("skillStderr", {"skill": evil, "text": evil}, run=PARENT, step=1)
    log.add("retry", {"message": evil, "reason": evil}, run=PARENT, step=1)
    for kind, payload in EVERY.items():
        log.add(kind, spoiled(payload, evil), run=PARENT, step=1)
    log.add("somethingNew", {evil: evil, "n": [evil]}, run=PARENT, step=1)
    log.add("stopRunByError", {"message": evil, "reason": evil}, run=PARENT, step=1)
    log.finished("failed", answer=evil, message=evil)
    text = printed(log.items)
    assert not {char for char in text if char != "\n" and (ord(char) < 32 or 0x7F <= ord(char) <= 0x9F)}
    assert "\u202e" not in text
    # One line an event, however many line ends it holds: nothing can pass for a line of ours.
    assert len(text.rstrip().split("\n")) >= len(log.items) - 3
    assert all("s  " in row for row in text.split("\n\n")[0].split("\n"))


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("host_not_allowed", "; allow it with --allow-domain api.example"),
        ("address_not_global", "; the daemon's operator opens its address with egress.allow_addresses"),
        ("egress_not_permitted", "; the daemon's operator permits hosts with egress.allow_hosts"),
        ("not_tls", ""),
    ],
)
def test_a_denied_host_comes_with_what_opens_it(reason: str, remedy: str) -> None:
    log = EventLog()
    log.created()
    log.started(PARENT, "q")
    log.add("egressDenied", {"host": "api.example", "port": 443, "reason": reason}, run=PARENT, step=1)
    assert f"was denied api.example:443 ({reason}){remedy}\n" in printed(log.items)


def test_a_request_that_names_no_host_is_denied_without_one() -> None:
    log = EventLog()
    log.created()
    log.started(PARENT, "q")
    log.add("egressDenied", {"host": "", "port": 0, "reason": "method_not_allowed"}, run=PARENT, step=1)
    assert "was denied a connection (method_not_allowed)\n" in printed(log.items)


def test_a_skill_that_starts_is_told_before_it_is_there() -> None:
    log = EventLog()
    log.created()
    log.add("sandboxAssigned", {"sandboxId": "S", "template": "base"}, run=PARENT, step=1)
    log.add("skillStarting", {"skill": "tracker"}, run=PARENT, step=1)
    assert "starts skill tracker\n" in printed(log.items)


def test_a_sandbox_that_is_lost_is_told_and_one_that_is_given_back_is_not() -> None:
    log = EventLog()
    log.created()
    log.started(PARENT, "q")
    log.add("sandboxReleased", {"cause": "oomKilled", "detail": "768 MiB", "sandboxId": "S"}, run=PARENT)
    text = printed(log.items)
    assert "lost its sandbox (oomKilled): 768 MiB" in text
    assert "lost" not in printed(story())


SAID = {
    "callInteractiveTool": "asks (board.askMove): Your move? [1-1]",
    "approvalRequested": "asks for approval: github.createIssue title=Crash on start body=It crashes. Every time.",
    "elicitationRequested": "db.query asks: Which database shall I use? [3-1e1]",
    "questionAnswered": "a person answered: b2 [1-1]",
    "approvalDecided": "a person allowed the call: fine [2-1]",
    "skillToolsChanged": "skill db now offers other tools, not used in this run: +a -b ~c",
    "toolRenamed": "the model knows db.query as db_query",
    "reasoningMapped": "reasoning: medium instead of 4096 tokens",
    "contextCompacted": "compacted its history of about 150.0k tokens to a summary: They rowed.",
    "compactionFailed": "could not compact its history (tries again in 2.0s): overloaded",
    "historyInherited": "goes on from run R of job J, 1 messages",
}


@pytest.mark.parametrize("kind", EVERY)
def test_every_new_event_reads_as_a_sentence(kind: str) -> None:
    log = EventLog()
    log.created()
    log.started(PARENT, "q")
    log.add(kind, {key: value for key, value in EVERY[kind].items()}, run=PARENT, step=1)
    last = printed(log.items).rstrip().split("\n")[-1]
    words = SAID[kind] if kind != "approvalRequested" else "asks for approval: github.createIssue body=It crashes."
    assert words in last


@pytest.mark.parametrize("run", ["", PARENT])
@pytest.mark.parametrize("payload", [{}, {"a": {"b": [1, None]}, "c": "x" * 10_000}, {"questions": 7, "question": []}])
def test_an_event_of_a_later_daemon_is_shown_with_its_members(run: str, payload: dict[str, Any]) -> None:
    log = EventLog()
    log.created()
    log.started(PARENT, "q")
    log.add("somethingNew", payload, run=run)
    last = printed(log.items).rstrip().split("\n")[-1]
    assert "somethingNew" in last
    assert len(last) < 250


@pytest.mark.parametrize("kind", EVERY)
def test_fields_of_other_types_do_no_harm(kind: str) -> None:
    for odd in (None, 7, "x", [], {"a": 1}, [[1]], True):
        log = EventLog()
        log.created()
        log.started(PARENT, "q")
        log.add(kind, dict.fromkeys(EVERY[kind], odd), run=PARENT, step=1)
        assert printed(log.items)


def test_lines_wait_while_somebody_is_asked() -> None:
    out = io.StringIO()
    log = PlainLog(out)
    log.hold()
    trace = log.paint(Trace(), of(story()))
    assert out.getvalue() == ""
    log.go_on()
    log.close(trace)
    assert out.getvalue() == STORY
