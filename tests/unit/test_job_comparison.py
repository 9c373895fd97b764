"""Where two jobs first differ: what is compared, and what is left aside."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from perstackd.domain.events import (
    CallTools,
    CompleteRun,
    ContinueToNextStep,
    ElicitationRequested,
    Event,
    FinishToolCall,
    JobFinished,
    Origin,
    Owner,
    Payload,
    Question,
    QuestionAnswered,
    QuestionKind,
    ResolveToolResults,
    ResumeToolCalls,
    Retry,
    StartGeneration,
    StartRun,
    StopRunByCancel,
    StopRunByError,
    StopRunByInteractiveTool,
    ToolRoute,
)
from perstackd.domain.ids import DEFAULT_TENANT, EventId, JobId, RunId
from perstackd.domain.job_comparison import Comparison, compare
from perstackd.domain.messages import (
    FinishReason,
    SaidPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
    Usage,
)
from perstackd.domain.reenactment import ReplayMode

TOOLS, MODEL = ReplayMode.TOOLS, ReplayMode.MODEL
EXEC = ToolRoute("exec", Owner.SANDBOX, "exec")
START = StartRun("do it", "You are lead", (), (EXEC,), "scripted", "m", "low")
FORM = Question("1-1e1", QuestionKind.ELICITATION, "a", "s", "exec", {}, "Which?", {})


def turn(*calls: str, text: str = "", model: str = "m-1") -> Turn:
    said: list[SaidPart] = [ThinkingPart("hm", signature=model), TextPart(text)] if text else []
    parts = tuple(ToolCallPart(call, "exec", {"n": 1}) for call in calls)
    return Turn((*said, *parts), FinishReason.TOOL_CALLS, Usage(len(model), 2), model)


def result(call_id: str, text: str = "ok") -> ToolResultPart:
    return ToolResultPart(call_id, (TextPart(text),))


def job(*payloads: Payload, run: str = "r", at: int = 0) -> list[Event]:
    """A job's events, from its `startRun` on."""
    origin = Origin(RunId(run), RunId(""), "lead", 1)
    told = [(Origin(), each) if isinstance(each, JobFinished) else (origin, each) for each in (START, *payloads)]
    return [
        Event(EventId(f"{run}{seq}"), seq, DEFAULT_TENANT, JobId(f"job-{run}"), where, at + seq, payload)
        for seq, (where, payload) in enumerate(told, 1)
    ]


def step(*calls: str, texts: Sequence[str] = ("ok", "ok"), model: str = "m-1") -> list[Payload]:
    results = tuple(result(call, text) for call, text in zip(calls, texts, strict=False))
    said = turn(*calls, model=model)
    return [StartGeneration(), CallTools(said), ResolveToolResults(results), FinishToolCall(), ContinueToNextStep(2)]


DONE: list[Payload] = [CompleteRun("done", Usage(3, 4), turn(text="done")), JobFinished("completed", 0, "done")]


def differing(found: Comparison) -> tuple[int, int, str]:
    assert found.difference is not None
    return found.difference.seq, found.difference.made_seq, found.difference.field


@pytest.mark.parametrize("mode", ReplayMode)
def test_ids_times_usage_and_what_is_the_providers_are_left_aside(mode: ReplayMode) -> None:
    other: list[Payload] = [CompleteRun("done", Usage(), turn(text="done", model="another")), DONE[1]]
    made = job(*step("x", "y", model="another"), *other, run="q", at=10_000)
    found = compare(job(*step("a", "b"), *DONE), made, mode)
    assert (found.difference, found.unrecorded, found.compared, found.runs) == (None, (), 6, 1)


def test_retries_and_parked_sandboxes_are_left_aside() -> None:
    told = [StartGeneration(), Retry("model_overloaded", "busy", 500), *step("a"), StopRunByInteractiveTool(("a",))]
    assert compare(job(*told, *DONE), job(*step("a"), *DONE), TOOLS).difference is None


def test_results_from_before_a_sandbox_was_lost_are_told_with_those_after_it() -> None:
    begun, called, *_, over, following = step("a", "b")
    lost = ResumeToolCalls(("b",), (result("a"),))
    recorded = job(begun, called, lost, ResolveToolResults((result("b"),)), over, following, *DONE)
    assert compare(recorded, job(*step("a", "b"), *DONE), TOOLS).difference is None
    differs = compare(recorded, job(*step("a", "b", texts=("ok", "no")), *DONE), TOOLS)
    assert differing(differs) == (5, 4, "results[1].content[0].text")


def test_a_server_that_asks_is_compared_with_live_tools_only() -> None:
    begun, called, *rest = step("a")
    answered = QuestionAnswered("1-1e1", "a", QuestionKind.ELICITATION, "accept", "{}")
    recorded = job(begun, called, ElicitationRequested(FORM, 1), answered, *rest, *DONE)
    made = job(*step("a"), *DONE)
    assert compare(recorded, made, MODEL).difference is None
    assert differing(compare(recorded, made, TOOLS)) == (4, 4, "type")


def test_which_model_is_asked_is_compared_with_live_tools_only() -> None:
    made = job(*step("a"), *DONE)
    made[0] = replace(made[0], payload=replace(START, model="better"))
    recorded = job(*step("a"), *DONE)
    assert compare(recorded, made, MODEL).difference is None
    assert differing(compare(recorded, made, TOOLS)) == (1, 1, "model")


@pytest.mark.parametrize(
    ("made", "where"),
    [
        ([StartGeneration(), CallTools(turn("a", text="look"))], "turn.parts[0].type"),
        ([StartGeneration(), CallTools(turn("a", "b"))], "turn.parts[1]"),
        (step("a", texts=("no",)), "results[0].content[0].text"),
        ([*step("a"), CompleteRun("else", Usage(), turn(text="else"))], "text"),
        ([*step("a"), StopRunByError("x", "y")], "type"),
        (step("a"), ""),
        ([*step("a"), DONE[0], JobFinished("completed", 0, "else")], "answer"),
    ],
)
def test_the_first_field_that_differs_is_named(made: list[Payload], where: str) -> None:
    assert differing(compare(job(*step("a"), *DONE), job(*made), TOOLS))[2] == where


def test_what_only_one_of_them_has_is_told_without_the_other() -> None:
    longer, shorter = job(*step("a"), *DONE), job(*step("a"))
    less, more = compare(longer, shorter, TOOLS).difference, compare(shorter, longer, TOOLS).difference
    assert less is not None
    assert more is not None
    assert (less.seq, less.made_seq, less.made, less.recorded == DONE[0]) == (7, 0, None, True)
    assert (more.seq, more.made_seq, more.recorded, more.made == DONE[0]) == (0, 7, None, True)


def test_a_run_that_was_cancelled_agrees_with_live_tools_that_came_as_far() -> None:
    recorded = job(StartGeneration(), CallTools(turn("a")), StopRunByCancel("enough"))
    ended = StopRunByError("no_recorded_turn", "one more was asked for")
    assert compare(recorded, job(*step("a"), ended), TOOLS).difference is None
    assert compare(recorded, job(*step("a"), *DONE), TOOLS).difference is not None
    assert compare(recorded, job(*step("a"), ended), MODEL).difference is not None


def test_a_call_is_in_the_record_as_often_as_it_was_answered_there() -> None:
    found = compare(job(*step("a"), *DONE), job(*step("x", "y"), *DONE, run="q"), MODEL)
    assert [(call.seq, call.run_id, call.tool, call.arguments) for call in found.unrecorded] == [
        (3, "q", "exec", '{"n":1}')
    ]
    assert compare(job(*step("a"), *DONE), job(*step("x", "y"), *DONE), TOOLS).unrecorded == ()
