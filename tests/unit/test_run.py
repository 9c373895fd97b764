"""The law of a run, without anything around it."""

from dataclasses import replace

import pytest

from perstackd.domain import events
from perstackd.domain.budget import Budgets, Tally
from perstackd.domain.commands import (
    Begin,
    CallsAnswered,
    Cancel,
    ChildrenAnswered,
    Command,
    Exhaust,
    Fail,
    Generate,
    Generated,
    GenerationFailed,
)
from perstackd.domain.events import Owner, RunPayload, StartRun, ToolRoute
from perstackd.domain.messages import FinishReason, Message, Role, TextPart, ToolCallPart, ToolResultPart, Turn, Usage
from perstackd.domain.run import decide, request_messages
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_state import Outcome, Phase, RunState
from perstackd.domain.tool_calls import due_calls

ROUTES = (
    ToolRoute("attemptCompletion", Owner.DAEMON, "attemptCompletion"),
    ToolRoute("clearTodo", Owner.DAEMON, "clearTodo"),
    ToolRoute("exec", Owner.SANDBOX, "exec"),
    ToolRoute("pro-trainer", Owner.DELEGATE, "pro-trainer"),
    ToolRoute("todo", Owner.DAEMON, "todo"),
)
START = StartRun("do it", "You are.", (), ROUTES, "replay", "m", "low", max_retries=2)
ROOM = Tally(1, budgets=Budgets(max_steps=100))


def tell(state: RunState, *commands: Command, tally: Tally = ROOM) -> tuple[RunState, list[str]]:
    facts: list[RunPayload] = []
    for command in commands:
        for fact in decide(state, command, tally):
            facts.append(fact)
            state = evolve(state, fact)
    return state, [fact.type for fact in facts]


def turn(*calls: tuple[str, str, dict[str, object]], text: str = "") -> Generated:
    parts = [TextPart(text)] if text else []
    named = [ToolCallPart(call_id, name, arguments) for call_id, name, arguments in calls]  # type: ignore[arg-type]
    reason = FinishReason.TOOL_CALLS if calls else FinishReason.STOP
    return Generated(Turn((*parts, *named), reason, Usage(10, 5)))


def result(call_id: str, text: str = "ok") -> ToolResultPart:
    return ToolResultPart(call_id, (TextPart(text),))


STARTED, _ = tell(RunState(), Begin(START))


def test_a_run_begins_by_asking_the_model() -> None:
    state, facts = tell(RunState(), Begin(START))
    assert facts == ["startRun", "startGeneration"]
    assert state.phase is Phase.GENERATING
    assert request_messages(state) == (Message(Role.USER, (TextPart("do it"),)),)


def test_text_alone_completes() -> None:
    state, facts = tell(STARTED, turn(text="done"))
    assert facts == ["completeRun"]
    assert state.end is not None
    assert (state.end.outcome, state.end.text, state.usage) == (Outcome.COMPLETED, "done", Usage(10, 5))


def test_a_step_with_a_sandbox_call_waits_for_its_result_and_goes_on_in_one_moment() -> None:
    state, facts = tell(STARTED, turn(("a", "exec", {})))
    assert (facts, state.phase, due_calls(state)) == (["callTools"], Phase.CALLING, ("a",))
    state, facts = tell(state, CallsAnswered((result("a"),)))
    assert facts == ["resolveToolResults", "finishToolCall", "continueToNextStep", "startGeneration"]
    assert (state.step, state.phase) == (2, Phase.GENERATING)
    assert [message.role for message in state.messages] == [Role.USER, Role.ASSISTANT, Role.TOOL]


def test_results_keep_the_order_of_the_calls_whoever_answers_them() -> None:
    state, _ = tell(STARTED, turn(("t", "todo", {"newTodos": ["x"]}), ("a", "exec", {}), ("z", "nothing", {})))
    state, _ = tell(state, CallsAnswered((result("a"),)))
    parts = state.messages[-1].parts
    assert [part.call_id for part in parts if isinstance(part, ToolResultPart)] == ["t", "a", "z"]
    assert [part.is_error for part in parts if isinstance(part, ToolResultPart)] == [False, False, True]


def test_completion_with_text_beside_it_needs_no_further_model_call() -> None:
    state, facts = tell(STARTED, turn(("c", "attemptCompletion", {}), text="answer"))
    assert facts == ["callTools", "attemptCompletion", "completeRun"]
    assert state.end is not None
    assert state.end.text == "answer"


def test_completion_without_text_asks_once_more_for_the_answer() -> None:
    state, facts = tell(STARTED, turn(("c", "attemptCompletion", {})))
    assert (facts, state.phase) == (["callTools", "attemptCompletion"], Phase.RESULT)
    state, facts = tell(state, turn(text="answer"))
    assert facts == ["completeRun"]


def test_open_todos_refuse_completion_and_are_named() -> None:
    state, _ = tell(STARTED, turn(("t", "todo", {"newTodos": ["stretch"]})))
    state, facts = tell(state, turn(("c", "attemptCompletion", {}), text="done"))
    assert facts == ["callTools", "resolveToolResults", "finishToolCall", "continueToNextStep", "startGeneration"]
    assert "stretch" in str(state.messages[-1])
    _, facts = tell(state, turn(("d", "clearTodo", {}), ("c2", "attemptCompletion", {}), text="done"))
    assert facts[-1] == "completeRun"


def test_other_calls_beside_completion_run_first() -> None:
    state, facts = tell(STARTED, turn(("c", "attemptCompletion", {}), ("a", "exec", {}), text="done"))
    assert facts == ["callTools"]
    state, facts = tell(state, CallsAnswered((result("a"),)))
    assert facts == ["attemptCompletion", "completeRun"]


def test_delegates_come_after_tools_and_their_results_join_the_turn() -> None:
    state, _ = tell(STARTED, turn(("d", "pro-trainer", {"query": "plan"}), ("a", "exec", {})))
    state, facts = tell(state, CallsAnswered((result("a"),)))
    assert (facts, state.phase) == (["callDelegate"], Phase.DELEGATING)
    state, facts = tell(state, ChildrenAnswered((result("d", "menu"),)))
    assert facts == ["finishToolCall", "continueToNextStep", "startGeneration"]
    assert [part.call_id for part in state.messages[-1].parts if isinstance(part, ToolResultPart)] == ["d", "a"]


def test_completion_beside_a_delegation_counts_once_the_child_answered() -> None:
    calls: tuple[tuple[str, str, dict[str, object]], ...] = (
        ("d", "pro-trainer", {"query": "plan"}),
        ("c", "attemptCompletion", {}),
    )
    state, facts = tell(STARTED, turn(*calls, text="done"))
    assert facts == ["callTools", "callDelegate"]
    _, facts = tell(state, ChildrenAnswered((result("d"),)))
    assert facts == ["attemptCompletion", "completeRun"]


def test_a_delegation_without_a_query_is_an_error_result() -> None:
    state, facts = tell(STARTED, turn(("d", "pro-trainer", {"query": " "})))
    assert "callDelegate" not in facts
    assert "bad_arguments" in str(state.messages[-1])


def test_delegation_ends_at_the_depth_limit() -> None:
    deep, _ = tell(RunState(), Begin(replace(START, depth=8)))
    state, _ = tell(deep, turn(("d", "pro-trainer", {"query": "plan"})))
    assert "too_deep" in str(state.messages[-1])


def test_an_empty_turn_is_tried_again_in_its_step_and_leaves_no_trace_in_the_history() -> None:
    state, facts = tell(STARTED, turn())
    assert (facts, state.phase, state.step) == (["retry"], Phase.PREPARING, 1)
    state, facts = tell(state, Generate())
    assert facts == ["startGeneration"]
    assert request_messages(state) == request_messages(STARTED)


def test_a_turn_of_blanks_is_no_answer() -> None:
    (fact,) = decide(STARTED, Generated(Turn((TextPart(" \n"),), FinishReason.STOP)), ROOM)
    assert isinstance(fact, events.Retry)
    assert fact.reason == "empty_turn"


def test_a_cut_tool_call_is_shown_to_the_model_once() -> None:
    cut = Turn((ToolCallPart("a", "exec", {}),), FinishReason.LENGTH)
    state, facts = tell(STARTED, Generated(cut), Generate())
    assert facts == ["retry", "startGeneration"]
    assert "turn_too_long" in str(request_messages(state)[-1])
    state, _ = tell(state, turn(("b", "exec", {})))
    assert "turn_too_long" not in str(request_messages(state))


def test_retries_back_off_and_end() -> None:
    failure = GenerationFailed("model_overloaded", "busy", retryable=True)
    delays, state = [], STARTED
    for _ in range(2):
        (retry,) = decide(state, failure, ROOM)
        assert isinstance(retry, events.Retry)
        delays.append(retry.delay_ms)
        state, _ = tell(state, failure, Generate())
    assert delays == [500, 1000]
    state, facts = tell(state, failure)
    assert facts == ["stopRunByError"]
    assert state.end is not None
    assert state.end.reason == "model_overloaded"


def test_the_providers_wish_to_wait_is_kept() -> None:
    (retry,) = decide(STARTED, GenerationFailed("model_overloaded", "busy", retryable=True, retry_after_ms=7000), ROOM)
    assert isinstance(retry, events.Retry)
    assert retry.delay_ms == 7000


def test_a_refused_key_is_not_tried_again() -> None:
    state, facts = tell(STARTED, GenerationFailed("model_key_refused", "no", retryable=False))
    assert facts == ["stopRunByError"]
    assert state.end is not None
    assert state.end.outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("own", "tally", "scope"), [(1, ROOM, "run"), (0, Tally(5, budgets=Budgets(max_steps=5)), "job")]
)
def test_step_limits_stop_at_the_end_of_a_step(own: int, tally: Tally, scope: str) -> None:
    limited, _ = tell(RunState(), Begin(replace(START, max_steps=own)))
    state, _ = tell(limited, turn(("a", "exec", {})), tally=tally)
    state, facts = tell(state, CallsAnswered((result("a"),)), tally=tally)
    assert facts == ["resolveToolResults", "finishToolCall", "stopRunByExceededMaxSteps"]
    assert state.end is not None
    assert (state.end.outcome, state.end.reason) == (Outcome.STOPPED, f"max_steps_{scope}")


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        (Cancel("enough"), Outcome.CANCELLED),
        (Fail("sandbox_lost", "gone"), Outcome.FAILED),
        (Exhaust("tokens", 10), Outcome.STOPPED),
    ],
)
def test_a_run_can_be_ended_in_any_phase_and_only_once(command: Command, outcome: Outcome) -> None:
    calling, _ = tell(STARTED, turn(("a", "exec", {})))
    for state in (RunState(), STARTED, calling):
        ended, facts = tell(state, command)
        assert len(facts) == 1
        assert ended.end is not None
        assert ended.end.outcome is outcome
        assert tell(ended, command)[1] == []


def test_commands_that_come_late_change_nothing() -> None:
    for command in (CallsAnswered((result("a"),)), ChildrenAnswered(()), Generate(), Begin(START)):
        assert decide(STARTED, command, ROOM) == ()


def test_two_calls_with_one_id_are_a_malformed_turn() -> None:
    _, facts = tell(STARTED, turn(("a", "exec", {}), ("a", "exec", {})))
    assert facts == ["retry"]
