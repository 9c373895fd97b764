"""Compaction: when, where it cuts, what the model is asked for, what becomes of a summary that does not come."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perstackd.domain.budget import Budgets, Tally
from perstackd.domain.commands import (
    Begin,
    CallsAnswered,
    ChildrenAnswered,
    Command,
    Generate,
    Generated,
    GenerationFailed,
    Summarised,
    SummaryFailed,
)
from perstackd.domain.compaction import ASK, HEAD, MAX_TRIES, SECTIONS, compaction_due, cut, summary_messages
from perstackd.domain.context_size import message_tokens
from perstackd.domain.events import CompactionFailed, ContextCompacted, Retry, RunPayload, StartRun, StopRunByError
from perstackd.domain.messages import (
    BlobPart,
    FinishReason,
    Message,
    Role,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
    Usage,
)
from perstackd.domain.run import decide, request_messages
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_state import Phase, RunState
from tests.unit.test_run_laws import ANSWERS, START, TURNS, assert_a_provider_takes

COMPACTING = replace(START, compact_at=1_000, max_steps=0)
SUMMARY = Turn((ThinkingPart("hm", "sig"), TextPart("## Request\nRow.")), FinishReason.STOP, Usage(900, 50, 700))


def told(state: RunState, *commands: Command, tally: Tally | None = None) -> tuple[RunState, list[RunPayload]]:
    facts: list[RunPayload] = []
    for command in commands:
        for fact in decide(state, command, tally or Tally()):
            state = evolve(state, fact)
            facts.append(fact)
    return state, facts


def step(number: int, text: str = "x", used: int = 10, thought: str = "") -> tuple[Command, Command]:
    """A turn with one call of exec, counted by the provider as `used` tokens, and its result."""
    thinking = (ThinkingPart(thought, "sig"),) if thought else ()
    call = ToolCallPart(f"c{number}", "exec", {"command": f"step {number}"})
    turn = Turn((*thinking, call), FinishReason.TOOL_CALLS, Usage(used, 0))
    return Generated(turn), CallsAnswered((ToolResultPart(f"c{number}", (TextPart(text),)),))


def full(start: StartRun = COMPACTING, steps: int = 5, used: int = 2_000) -> RunState:
    """A run whose history is to be compacted."""
    early = [command for number in range(steps - 1) for command in step(number, "old " * 150, thought="deep")]
    state, _ = told(RunState(), Begin(start), *early, *step(steps, "fresh result", used))
    return state


def texts(messages: Sequence[Message]) -> str:
    return str([part for message in messages for part in message.parts])


# --- when -----------------------------------------------------------------------------------------------------------
def test_a_history_that_fills_the_window_is_compacted_before_anything_else_is_generated() -> None:
    state = full()
    assert state.phase is Phase.PREPARING
    assert compaction_due(state)
    state, facts = told(state, Summarised(SUMMARY))
    assert [fact.type for fact in facts] == ["contextCompacted", "startGeneration"]


def test_what_came_since_the_provider_counted_is_estimated() -> None:
    start = replace(COMPACTING, compact_at=10_000)
    early = [command for number in range(5) for command in step(number, "old " * 150)]
    state, _ = told(RunState(), Begin(start), *early, *step(6, "x", 9_000))
    assert not compaction_due(state)
    state, _ = told(RunState(), Begin(start), *early, *step(6, "x" * 9_000, 9_000))
    assert compaction_due(state)


def test_without_a_threshold_nothing_is_ever_compacted_and_a_refusal_is_the_end() -> None:
    state = full(replace(COMPACTING, compact_at=0), used=10**9)
    assert state.phase is Phase.GENERATING
    state, facts = told(state, GenerationFailed("context_too_long", "too long", retryable=False))
    assert [fact.type for fact in facts] == ["stopRunByError"]


def test_a_prompt_that_fills_the_window_alone_does_not_cost_a_summary_a_step() -> None:
    start = replace(COMPACTING, system="rule " * 1_000)
    state, _ = told(RunState(), Begin(start), *step(1, used=1_700), *step(2, used=1_710))
    assert state.window.tokens > 1_000
    assert not compaction_due(state)
    assert state.phase is Phase.GENERATING


def test_while_the_job_is_paused_the_summary_is_taken_and_nothing_is_generated() -> None:
    state, facts = told(full(), Summarised(SUMMARY), tally=Tally(paused=True))
    assert [fact.type for fact in facts] == ["contextCompacted"]
    _, facts = told(state, Generate())
    assert [fact.type for fact in facts] == ["startGeneration"]


def test_what_a_summary_costs_counts_before_the_next_generation() -> None:
    tally = Tally(tokens=90, budgets=Budgets(tokens=1_000))
    _, facts = told(full(), Summarised(SUMMARY), tally=tally.plus(950, 0))
    assert [fact.type for fact in facts] == ["contextCompacted", "stopRunByExceededBudget"]


# --- what is left ---------------------------------------------------------------------------------------------------
def test_the_query_the_summary_and_the_latest_steps_are_left() -> None:
    before = full()
    state, facts = told(before, Summarised(SUMMARY))
    assert state.messages[0] == before.messages[0]
    assert texts(state.messages[1:2]).count(HEAD) == 1
    assert "## Request" in texts(state.messages[1:2])
    assert "fresh result" in texts(state.messages[2:])
    assert "old old" not in texts(state.messages)
    assert "deep" not in texts(state.messages)
    (fact,) = [fact for fact in facts if isinstance(fact, ContextCompacted)]
    assert (fact.kept_from, fact.before_tokens, fact.usage) == (9, before.window.tokens, SUMMARY.usage)
    assert state.usage - before.usage == SUMMARY.usage
    assert_a_provider_takes(request_messages(state))


def test_the_todo_list_outlives_its_history() -> None:
    todo = Turn((ToolCallPart("t", "todo", {"newTodos": ["row"]}),), FinishReason.TOOL_CALLS, Usage(1, 1))
    early = [command for number in range(4) for command in step(number, "old " * 150)]
    state, _ = told(RunState(), Begin(COMPACTING), Generated(todo), *early, *step(9, used=2_000))
    state, _ = told(state, Summarised(SUMMARY))
    assert '"title":"row"' in texts(state.messages[1:2])


def test_a_second_summary_is_made_of_the_first() -> None:
    state, _ = told(full(), Summarised(SUMMARY))
    more = [command for number in range(20, 24) for command in step(number, "newer " * 150)]
    state, _ = told(state, *more, *step(30, used=2_000))
    assert "## Request\\nRow." in texts(summary_messages(state))
    second = replace(SUMMARY, parts=(TextPart("## Request\nRow and rest."),))
    state, facts = told(state, Summarised(second))
    assert [fact.type for fact in facts] == ["contextCompacted", "startGeneration"]
    assert texts(state.messages).count(HEAD) == 1
    assert "Row and rest." in texts(state.messages)
    assert state.messages[0].parts == (TextPart("do it"),)


# --- the request ----------------------------------------------------------------------------------------------------
def test_the_request_for_a_summary_begins_as_the_runs_requests_do_and_asks_for_each_section() -> None:
    state = full()
    asked = summary_messages(state)
    assert asked[:-1] == state.messages[: cut(state)]
    assert asked[-1] == Message(Role.USER, (TextPart(ASK),))
    assert all(f"## {section}\n" in ASK for section in SECTIONS)
    assert_a_provider_takes(asked)


def test_a_request_for_a_summary_that_is_too_long_itself_is_made_again_with_less() -> None:
    call = ToolCallPart("big", "exec", {"text": "y" * 50_000, "all": ["z" * 50_000]})
    result = ToolResultPart("big", (TextPart("w" * 50_000), BlobPart("sha256:aa", 9, "image/png")))
    big = (Generated(Turn((call,), FinishReason.TOOL_CALLS, Usage(9, 0))), CallsAnswered((result,)))
    state, _ = told(RunState(), Begin(COMPACTING), *big)
    sizes = []
    for _ in range(MAX_TRIES):
        sizes.append(sum(message_tokens(message) for message in summary_messages(state)))
        state, facts = told(state, SummaryFailed("context_too_long", "too long", retryable=False))
    assert sizes[0] > 50_000
    assert sizes[1] < 4_000
    assert sizes[2] < 2_000
    assert [fact.type for fact in facts] == ["compactionFailed", "startGeneration"]


# --- what does not come ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "failure",
    [
        SummaryFailed("model_overloaded", "busy", retryable=True),
        Summarised(Turn((ToolCallPart("c", "exec", {}),), FinishReason.TOOL_CALLS, Usage(5, 5))),
        Summarised(Turn((TextPart("I must not"),), FinishReason.CONTENT_FILTER, Usage(5, 5))),
    ],
)
def test_a_summary_that_does_not_come_is_asked_for_three_times_then_the_run_goes_on(failure: Command) -> None:
    state, facts = told(full(), failure, failure)
    failed = [fact for fact in facts if isinstance(fact, CompactionFailed)]
    assert len(failed) == len(facts) == 2
    assert [fact.delay_ms for fact in failed] == [500, 1000]
    state, facts = told(state, failure)
    assert [fact.type for fact in facts] == ["compactionFailed", "startGeneration"]
    assert len(state.messages) == 11
    state, _ = told(state, *step(7, used=3_000))
    assert not compaction_due(state)
    assert state.phase is Phase.GENERATING


def test_a_failure_that_will_not_pass_is_not_tried_again() -> None:
    _, facts = told(full(), SummaryFailed("model_key_refused", "no", retryable=False))
    assert [fact.type for fact in facts] == ["compactionFailed", "startGeneration"]


# --- a provider that says so ----------------------------------------------------------------------------------------
REFUSED = GenerationFailed("context_too_long", "prompt is too long", retryable=False)


def test_a_history_that_the_provider_finds_too_long_is_compacted_once_and_sent_again() -> None:
    state, facts = told(full(used=10), REFUSED)
    (retry,) = facts
    assert isinstance(retry, Retry)
    assert compaction_due(state)
    assert told(state, Generate())[1] == []
    state, facts = told(state, Summarised(SUMMARY))
    assert [fact.type for fact in facts] == ["contextCompacted", "startGeneration"]
    state, facts = told(state, REFUSED)
    (stopped,) = facts
    assert isinstance(stopped, StopRunByError)
    assert stopped.reason == "context_too_long"


def test_after_another_turn_it_is_compacted_again() -> None:
    state, _ = told(full(used=10), REFUSED, Summarised(SUMMARY))
    state, facts = told(state, *step(20), REFUSED)
    assert [fact.type for fact in facts][-1] == "retry"
    assert compaction_due(state)


def test_when_no_summary_comes_then_the_run_ends_with_the_cause() -> None:
    state, _ = told(full(used=10), REFUSED)
    state, facts = told(state, SummaryFailed("model_key_refused", "no", retryable=False))
    assert [fact.type for fact in facts] == ["compactionFailed", "stopRunByError"]
    assert state.end is not None
    assert state.end.reason == "context_too_long"
    assert "could not be compacted" in state.end.message


def test_a_query_that_is_too_long_alone_ends_the_run() -> None:
    _, facts = told(RunState(), Begin(COMPACTING), REFUSED)
    assert [fact.type for fact in facts][-1] == "stopRunByError"


def test_a_final_answer_that_finds_no_room_gets_it() -> None:
    done = Turn((ToolCallPart("d", "attemptCompletion", {}),), FinishReason.TOOL_CALLS, Usage(1, 1))
    state, _ = told(full(used=10), Generated(done))
    assert state.phase is Phase.RESULT
    state, _ = told(state, REFUSED)
    assert state.phase is Phase.RESULT
    assert compaction_due(state)
    state, facts = told(state, Summarised(SUMMARY))
    assert [fact.type for fact in facts] == ["contextCompacted"]
    assert_a_provider_takes(request_messages(state))
    state, _ = told(state, Generated(Turn((TextPart("Rest."),), FinishReason.STOP, Usage(1, 1))))
    assert state.end is not None
    assert state.end.text == "Rest."


# --- laws -----------------------------------------------------------------------------------------------------------
SUMMARIES = st.one_of(
    st.builds(Summarised, st.just(SUMMARY)),
    st.builds(Summarised, TURNS),
    st.builds(SummaryFailed, st.sampled_from(["context_too_long", "model_timeout"]), st.just("no"), st.booleans()),
)
SIZED = st.builds(lambda turn, used: Generated(replace(turn, usage=Usage(used, 1))), TURNS, st.sampled_from([1, 5_000]))
COMMANDS = st.lists(
    st.one_of(SIZED, SIZED, SIZED, ANSWERS, SUMMARIES, SUMMARIES, st.just(REFUSED), st.just(Generate())), max_size=60
)


@settings(max_examples=300, deadline=None)
@given(COMMANDS, st.sampled_from([1, 30, 1_000]))
def test_whenever_it_is_compacted_a_provider_takes_the_history_and_the_facts_fold_to_the_same_state(
    commands: list[Command], compact_at: int
) -> None:
    state, facts = RunState(), list[RunPayload]()
    for command in [Begin(replace(COMPACTING, compact_at=compact_at, max_retries=50)), *commands]:
        before = state
        for fact in decide(state, command, Tally()):
            state = evolve(state, fact)
            facts.append(fact)
            if isinstance(fact, ContextCompacted):
                assert_a_provider_takes(state.messages)
                assert before.messages[0] in state.messages
                assert state.messages[-1] == before.messages[-1] or HEAD in texts(state.messages[-1:])
        if state.phase in {Phase.PREPARING, Phase.GENERATING, Phase.RESULT}:
            assert_a_provider_takes(request_messages(state))
        if compaction_due(state):
            assert_a_provider_takes(summary_messages(state))
        if state.phase is Phase.CALLING:
            state = _answered(state, facts)
    replayed = RunState()
    for fact in facts:
        replayed = evolve(replayed, fact)
    assert replayed == state


def _answered(state: RunState, facts: list[RunPayload]) -> RunState:
    for answer in (CallsAnswered(()), ChildrenAnswered(())):
        for fact in decide(state, answer, Tally()):
            state = evolve(state, fact)
            facts.append(fact)
    return state
