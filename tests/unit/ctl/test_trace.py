from dataclasses import replace

import pytest
from perstack.v1 import jobs_pb2
from perstack.v1.events_pb2 import Event

from perstackctl.client import Batch, ProtocolError
from perstackctl.client.convert import batch
from perstackctl.watch.run_trace import CALLS_KEPT, TEXT_KEPT
from perstackctl.watch.trace import Trace, fold
from tests.fakes.event_log import CHILD, JOB, PARENT, EventLog, Item
from tests.fakes.stories import DATABASE, ISSUE, MOVE, asking, story


def folded(log: EventLog) -> Trace:
    return fold(Trace(), of(log.items))


def of(items: list[Item]) -> Batch:
    events = [item for item in items if isinstance(item, Event)]
    pieces = [item for item in items if not isinstance(item, Event)]
    return batch(jobs_pb2.WatchJobResponse(events=events, streaming=pieces))


def running() -> EventLog:
    log = EventLog()
    log.created()
    log.started(PARENT, "q")
    return log


def test_a_whole_job_folds_into_its_runs() -> None:
    trace = fold(Trace(), of(story()))
    parent, child = trace.runs[PARENT], trace.runs[CHILD]
    assert (trace.job_id, trace.outcome, trace.exit_code) == (JOB, "completed", 0)
    assert trace.answer == "Ten minutes of rowing, then rest."
    assert (parent.outcome, parent.step, parent.calls_total) == ("completed", 4, 3)
    assert (child.outcome, child.expert, trace.depth(CHILD)) == ("completed", "pro-trainer", 1)
    assert trace.children("") == (parent,)
    assert trace.children(PARENT) == (child,)
    assert trace.usage.input_tokens == 5000
    assert [call.name for call in parent.calls] == ["readTextFile", "pro-trainer", "appendTextFile"]


def test_calls_have_durations_results_and_errors_in_words() -> None:
    read, asked, wrote = fold(Trace(), of(story())).runs[PARENT].calls
    assert (read.ended_at - read.started_at, read.is_error) == (30, False)
    assert asked.expert == "pro-trainer"
    assert (wrote.is_error, wrote.result) == (True, "EACCES: read-only")


def test_events_that_were_seen_before_change_nothing() -> None:
    once = fold(Trace(), of(story()))
    assert fold(once, of([item for item in story() if isinstance(item, Event)])) == once


def test_a_stream_that_is_joined_in_the_middle_makes_runs_as_they_come() -> None:
    late = Batch(tuple(event for event in of(story()).events if event.seq > 9))
    trace = fold(Trace(), late)
    assert trace.outcome == "completed"
    assert {run.expert for run in trace.runs.values()} == {"fitness-assistant", "pro-trainer"}


def test_streamed_text_grows_by_offset_without_repeats() -> None:
    log = running()
    log.add("startGeneration", run=PARENT, step=1)
    for offset, delta in ((0, "Grüße"), (0, "Grüße"), (7, ", W"), (8, " Welt")):
        log.stream(delta, run=PARENT, step=1, offset=offset)
    assert folded(log).runs[PARENT].stream.text == "Grüße, Welt"


def test_a_hole_in_streamed_text_is_shown() -> None:
    log = running()
    log.stream("a", run=PARENT, step=1, offset=0)
    log.stream("z", run=PARENT, step=1, offset=9)
    assert folded(log).runs[PARENT].stream.text == "a…z"


def test_streamed_text_ends_with_the_turn_that_has_all_of_it() -> None:
    log = running()
    log.stream("thinking", run=PARENT, step=1, offset=0, kind="streamReasoning")
    pieces = of(log.items)
    log.items.clear()
    log.turn(PARENT, 1, [("c", "exec", {})])
    trace = fold(fold(Trace(), pieces), of(log.items))
    assert trace.runs[PARENT].stream.text == ""


def test_tool_output_belongs_to_its_call() -> None:
    log = running()
    log.turn(PARENT, 1, [("a", "exec", {}), ("b", "exec", {})])
    log.stream("hello", run=PARENT, step=1, offset=0, kind="streamToolOutput", call="b")
    first, second = folded(log).runs[PARENT].calls
    assert (first.output.text, second.output.text) == ("", "hello")


def test_what_is_kept_is_bounded_however_long_a_job_is() -> None:
    log = running()
    for step in range(1, 60):
        log.turn(PARENT, step, [(f"c{step}", "exec", {"command": "x" * 5000})])
        log.results(PARENT, step, [(f"c{step}", "y" * 5000, False)])
    log.stream("z" * 100_000, run=PARENT, step=60, offset=0)
    run = folded(log).runs[PARENT]
    assert (len(run.calls), run.calls_total) == (CALLS_KEPT, 59)
    assert len(run.stream.text) <= TEXT_KEPT
    assert all(len(call.arguments) <= 400 and len(call.result) <= 1000 for call in run.calls)


@pytest.mark.parametrize(
    ("kind", "payload", "outcome", "detail"),
    [
        ("stopRunByError", {"message": "no key", "reason": "model_auth"}, "failed", "no key"),
        ("stopRunByExceededMaxSteps", {"limit": 3, "scope": "job"}, "stopped", "the job's limit of 3 steps is reached"),
        (
            "stopRunByExceededBudget",
            {"budget": "tokens", "limit": 9},
            "stopped",
            "the job's limit of 9 tokens is reached",
        ),
        (
            "stopRunByExceededBudget",
            {"budget": "money", "limit": 500_000},
            "stopped",
            "the job's limit of $0.5000 is reached",
        ),
        ("stopRunByCancel", {}, "cancelled", "cancelled"),
    ],
)
def test_every_way_to_stop_says_why_and_ends_open_calls(
    kind: str, payload: dict[str, object], outcome: str, detail: str
) -> None:
    log = running()
    log.turn(PARENT, 1, [("c", "exec", {})])
    log.add(kind, payload, run=PARENT, step=1)
    run = folded(log).runs[PARENT]
    assert (run.outcome, run.detail, run.calls[0].is_error) == (outcome, detail, True)


def test_a_question_is_open_until_it_is_answered() -> None:
    log = running()
    log.turn(PARENT, 1, [("c1-1", "askMove", {"board": "…"})])
    log.asks(PARENT, 1, MOVE)
    (asked,) = folded(log).questions
    assert (asked.id, asked.short_id, asked.kind, asked.message) == (f"{PARENT}.1-1", "1-1", "tool", "Your move?")
    assert folded(log).runs[PARENT].phase == "asking"
    answer = {"action": "answer", "callId": "c1-1", "content": "b2", "id": "1-1", "kind": "tool"}
    log.add("questionAnswered", answer, run=PARENT, step=1)
    assert (folded(log).questions, folded(log).runs[PARENT].phase) == ((), "calling")


def test_a_question_that_is_asked_again_after_a_restart_is_one_question() -> None:
    log = running()
    log.asks(PARENT, 1, MOVE)
    log.asks(PARENT, 1, MOVE)
    assert len(folded(log).questions) == 1


@pytest.mark.parametrize("kind", ["finishToolCall", "continueToNextStep", "completeRun", "stopRunByCancel"])
def test_questions_do_not_outlive_their_step(kind: str) -> None:
    log = EventLog()
    log.created()
    log.started(PARENT, "q")
    log.elicits(PARENT, 1, DATABASE)
    log.add(kind, run=PARENT, step=1)
    assert folded(log).questions == ()


def test_several_runs_ask_at_the_same_time_and_the_oldest_question_comes_first() -> None:
    trace = fold(Trace(), of(asking(of="all")))
    assert [question.short_id for question in trace.questions] == ["1-1", "2-1"]
    assert trace.stalled


def test_a_job_is_not_stalled_while_another_run_works() -> None:
    log = running()
    log.asks(PARENT, 1, MOVE)
    log.started(CHILD, "A menu", "c")
    assert not folded(log).stalled
    log.wants_approval(CHILD, 1, ISSUE)
    assert folded(log).stalled


def test_a_pause_is_seen_until_the_job_goes_on() -> None:
    log = running()
    log.add("jobPaused")
    assert folded(log).paused
    log.add("jobResumed")
    assert not folded(log).paused


def test_a_queued_job_says_its_place_and_why() -> None:
    log = EventLog()
    log.add("jobCreated", {"expertKey": "e"})
    log.add("jobQueued", {"place": 2, "reason": "all sandboxes are at work"})
    assert folded(log).queue == "place 2: all sandboxes are at work"


def test_a_retry_counts_its_tokens_and_says_why() -> None:
    log = running()
    turn = {"parts": [], "finishReason": "length", "usage": {"inputTokens": 7, "outputTokens": 3}}
    log.add("retry", {"message": "overloaded", "reason": "model_busy", "turn": turn}, run=PARENT, step=1)
    run = folded(log).runs[PARENT]
    assert (run.phase, run.note, run.usage.input_tokens) == ("retrying", "tries again: overloaded", 7)


def test_unknown_events_of_a_later_daemon_are_passed_over() -> None:
    log = running()
    before = folded(log)
    log.add("somethingNew", {"x": 1}, run=PARENT)
    after = folded(log)
    assert replace(after, last_seq=before.last_seq, last_at=before.last_at) == before


def test_fields_of_other_types_do_no_harm() -> None:
    log = running()
    log.add("callTools", {"turn": {"parts": "no list", "usage": [1]}}, run=PARENT, step=1)
    log.add("resolveToolResults", {"results": [{"callId": 7, "content": {"a": 1}}]}, run=PARENT, step=1)
    assert folded(log).runs[PARENT].calls == ()


@pytest.mark.parametrize("payload", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_a_payload_that_is_no_object_is_an_error_that_names_the_event(payload: bytes) -> None:
    log = running()
    log.add("callTools", run=PARENT).payload = payload
    with pytest.raises(ProtocolError, match=r"event 5 \(callTools\)"):
        folded(log)
