"""The law of a run: `decide` says which facts follow from a command; `run_fold.evolve` folds them.

Kept by the daemon alone; the runner in the sandbox only asks. A retry stays within its step: it is no progress
and must not use up the step limit. Follow-ups that need nothing from outside are decided at once, so that the facts of
one moment are one append: results, the step's end and the next `startGeneration` become durable together.
"""

from dataclasses import replace
from typing import Final, assert_never

from perstackd.domain.budget import Tally
from perstackd.domain.commands import (
    Answer,
    Begin,
    CallsAnswered,
    Cancel,
    ChildrenAnswered,
    Command,
    Elicited,
    Exhaust,
    Fail,
    Generate,
    Generated,
    GenerationFailed,
    Park,
    Resume,
    Stop,
    Summarised,
    SummaryFailed,
)
from perstackd.domain.compaction import TOO_LONG, compactable, compaction_due, not_summarised, summarised
from perstackd.domain.events import (
    CallTools,
    CompleteRun,
    ContinueToNextStep,
    ElicitationRequested,
    FinishToolCall,
    ResumeToolCalls,
    Retry,
    RunPayload,
    StartGeneration,
    StopRunByCancel,
    StopRunByError,
    StopRunByExceededBudget,
    StopRunByExceededMaxSteps,
    StopRunByInteractiveTool,
)
from perstackd.domain.messages import FinishReason, Message, Turn
from perstackd.domain.questions import MAX_OPEN, answer_fact, elicitation_question
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_state import Phase, RunState
from perstackd.domain.tool_calls import (
    MAX_CALLS,
    crowded_results,
    due_calls,
    next_approval,
    repeated_call,
    resumed,
    routed,
    settle,
    started,
    truncated_results,
    turn_in_hand,
)

MAX_DELAY_MS: Final = 30_000
FIRST_DELAY_MS: Final = 500
LONGEST_WISH_MS: Final = 300_000  # a provider's wish is not trusted to hold a sandbox for longer


def decide(state: RunState, command: Command, tally: Tally) -> tuple[RunPayload, ...]:
    """The facts that follow, in order; empty when the command has no place in this state (it came late or twice)."""
    facts: list[RunPayload] = []
    fact = _answer(state, command, tally)
    while fact is not None:
        facts.append(fact)
        state = evolve(state, fact)
        fact = _follow(state, tally)
    return tuple(facts)


def _answer(state: RunState, command: Command, tally: Tally) -> RunPayload | None:  # noqa: C901, PLR0911, PLR0912 - one case a command
    if state.phase is Phase.STOPPED:
        return None
    match command:
        case Cancel() | Fail() | Exhaust():
            return _stop(command)
        case Begin(start=start):
            return start if state.phase is Phase.INIT else None
        case Resume():
            return resumed(state, command) if state.phase is Phase.CALLING else None
        case Generate():
            ready = state.phase is Phase.PREPARING and not tally.paused and not compaction_due(state)
            return StartGeneration() if ready else None
        case Generated(turn=turn):
            return _after_turn(state, turn)
        case GenerationFailed():
            return _after_failure(state, command)
        case Summarised():
            return summarised(state, command)
        case SummaryFailed():
            return not_summarised(state, command)
        case CallsAnswered(results=results):
            return settle(state, results) if state.phase is Phase.CALLING else None
        case ChildrenAnswered(results=results):
            return settle(state, results) if state.phase is Phase.DELEGATING else None
        case Elicited():
            return _elicitation(state, command)
        case Answer():
            return _person_answered(state, command)
        case Park():
            return _parked(state)
        case _:
            assert_never(command)


def _stop(command: Stop) -> RunPayload:
    match command:
        case Cancel(message=message):
            return StopRunByCancel(message)
        case Fail(reason=reason, message=message):
            return StopRunByError(reason, message)
        case Exhaust(budget=budget, limit=limit):
            return StopRunByExceededBudget(budget, limit)
        case _:
            assert_never(command)


def _follow(state: RunState, tally: Tally) -> RunPayload | None:
    """What is decided without asking anyone."""
    match state.phase:
        case Phase.PREPARING | Phase.RESULT if state.window.refused and state.window.given_up:
            return StopRunByError(TOO_LONG, _TOO_LONG)
        case Phase.PREPARING if not state.retries and not tally.paused and not compaction_due(state):
            exceeded = tally.exceeded() if state.window.fresh else None  # a summary is paid for between two steps
            return StopRunByExceededBudget(*exceeded) if exceeded else StartGeneration()
        case Phase.CALLING if not due_calls(state):
            return settle(state, ())
        case Phase.ASKING:
            return _after_people(state)
        case Phase.RESOLVING:
            return FinishToolCall()
        case Phase.RESULT if turn_in_hand(state).text:
            return CompleteRun(turn_in_hand(state).text, state.usage)
        case Phase.FINISHING:
            return _next_step(state, tally)
        case _:
            return None


def _after_turn(state: RunState, turn: Turn) -> RunPayload | None:
    if state.phase is Phase.RESULT:
        return _completed(state, turn)
    if state.phase is not Phase.GENERATING:
        return None
    if turn.finish_reason is FinishReason.CONTENT_FILTER:
        return StopRunByError(
            "model_refused", "the model's provider refused to answer; change the query or the instruction"
        )
    if not turn.calls:
        return _completed(state, turn)
    if (repeated := repeated_call(turn)) is not None:  # before all else: no history may hold such a turn
        return _retry(state, "turn_malformed", f"the model gave two calls the same id {repeated[:64]!r}")
    if turn.finish_reason is FinishReason.LENGTH:
        retry = _retry(
            state, "turn_too_long", "the model's turn was cut by its length limit in the middle of a tool call"
        )
        return replace(retry, turn=turn, results=truncated_results(turn)) if isinstance(retry, Retry) else retry
    if len(turn.calls) > MAX_CALLS:
        retry = _retry(state, "turn_malformed", f"the model made {len(turn.calls)} calls at once, {MAX_CALLS} may be")
        return replace(retry, turn=turn, results=crowded_results(turn)) if isinstance(retry, Retry) else retry
    return CallTools(turn)


def _completed(state: RunState, turn: Turn) -> CompleteRun | Retry | StopRunByError:
    if not turn.text.strip():  # servers send a blank where the model said nothing
        return _retry(state, "empty_turn", "the model generated nothing")
    return CompleteRun(turn.text, state.usage + turn.usage, turn)


_TOO_LONG: Final = (
    "the history is too long for the model and could not be compacted: the event before this one says why; start a new "
    "job, or give the expert less to read at once"
)


def _after_failure(state: RunState, failure: GenerationFailed) -> RunPayload | None:
    if state.phase not in {Phase.GENERATING, Phase.RESULT}:
        return None
    if failure.reason == TOO_LONG and compactable(state):
        return Retry(failure.reason, failure.message)
    if not failure.retryable:
        return StopRunByError(failure.reason, failure.message)
    return _retry(state, failure.reason, failure.message, failure.retry_after_ms)


def _retry(state: RunState, reason: str, message: str, retry_after_ms: int = 0) -> Retry | StopRunByError:
    limit = started(state).max_retries
    if state.retries >= limit:
        return StopRunByError(reason, f"{message} (given up after {limit} {'retry' if limit == 1 else 'retries'})")
    delay = max(min(retry_after_ms, LONGEST_WISH_MS), min(MAX_DELAY_MS, FIRST_DELAY_MS << state.retries))
    return Retry(reason, message, delay)


def _after_people(state: RunState) -> RunPayload | None:
    """All questions of a turn are asked before any is waited for; what was approved runs once all are answered."""
    if (approval := next_approval(state)) is not None:
        return approval
    if state.questions:
        return None
    due = due_calls(state)
    return ResumeToolCalls(due) if due else settle(state, ())


def _elicitation(state: RunState, command: Elicited) -> ElicitationRequested | None:
    """Only while the call runs, and only so many at once."""
    if state.phase is not Phase.CALLING or command.call_id not in due_calls(state) or len(state.questions) >= MAX_OPEN:
        return None
    turn = turn_in_hand(state)
    call, route = next(pair for pair in routed(started(state), turn) if pair[0].call_id == command.call_id)
    if route is None:
        return None
    return ElicitationRequested(elicitation_question(turn, state.step, call, route, command), command.elicitation)


def _person_answered(state: RunState, command: Answer) -> RunPayload | None:
    question = next((question for question in state.questions if question.id == command.question_id), None)
    return answer_fact(question, command.action, command.content) if question is not None else None


def _parked(state: RunState) -> StopRunByInteractiveTool | None:
    if state.phase is not Phase.ASKING or not state.questions:
        return None
    return StopRunByInteractiveTool(tuple(question.call_id for question in state.questions))


def _next_step(state: RunState, tally: Tally) -> RunPayload:
    own = started(state).max_steps
    if own and state.step >= own:
        return StopRunByExceededMaxSteps(own, "run")
    most = tally.budgets.max_steps
    if most and tally.steps >= most:
        return StopRunByExceededMaxSteps(most, "job")
    if exceeded := tally.exceeded():
        return StopRunByExceededBudget(*exceeded)
    return ContinueToNextStep(state.step + 1)


def request_messages(state: RunState) -> tuple[Message, ...]:
    """The history that the next model request carries."""
    return state.messages + state.transient if state.transient else state.messages
