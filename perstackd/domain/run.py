"""The law of a run: `decide` says which facts follow from a command, `evolve` folds them.

Kept by the daemon alone; the runner in the sandbox only asks. A retry stays within its step: it is no progress
and must not use up the step limit. Follow-ups that need nothing from outside are decided at once, so that the facts of
one moment are one append: results, the step's end and the next `startGeneration` become durable together.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias, assert_never

from perstackd.domain.events import (
    AttemptCompletion,
    CallDelegate,
    CallInteractiveTool,
    CallTools,
    CompleteRun,
    ContinueToNextStep,
    FinishAllToolCalls,
    FinishToolCall,
    Owner,
    ResolveToolResults,
    ResumeToolCalls,
    Retry,
    RunPayload,
    StartGeneration,
    StartRun,
    StopRunByCancel,
    StopRunByDelegate,
    StopRunByError,
    StopRunByExceededBudget,
    StopRunByExceededMaxSteps,
    StopRunByInteractiveTool,
    TodoItem,
)
from perstackd.domain.messages import (
    FinishReason,
    Message,
    Part,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
    Usage,
)
from perstackd.domain.tool_calls import error_result, ordered_results, repeated_call, routed, settle, truncated_results

MAX_DELAY_MS: Final = 30_000
FIRST_DELAY_MS: Final = 500
LONGEST_WISH_MS: Final = 300_000  # a provider's wish is not trusted to hold a sandbox for longer


class Phase(StrEnum):
    """Where a run stands; runtime.md of the design has the table."""

    INIT = "init"
    PREPARING = "preparing"
    GENERATING = "generating"
    CALLING = "calling"
    RESOLVING = "resolving"
    RESULT = "result"
    DELEGATING = "delegating"
    ASKING = "asking"
    FINISHING = "finishing"
    STOPPED = "stopped"


class Outcome(StrEnum):
    """How a run ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a run: its text, or a stable reason and a sentence."""

    outcome: Outcome
    text: str = ""
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class RunState:
    """The fold of a run's events. `results` are those of the turn in hand; `transient` is shown to the model once
    and dropped.
    """

    phase: Phase = Phase.INIT
    start: StartRun | None = None
    step: int = 1
    messages: tuple[Message, ...] = ()
    transient: tuple[Message, ...] = ()
    turn: Turn | None = None
    results: tuple[ToolResultPart, ...] = ()
    todos: tuple[TodoItem, ...] = ()
    usage: Usage = Usage()
    retries: int = 0
    end: RunEnd | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """What the whole job has used and may use, all its runs together. `max_steps` 0 means no limit."""

    steps: int = 0
    max_steps: int = 0


# --- commands -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Begin:
    """All is known that model requests need."""

    start: StartRun


@dataclass(frozen=True, slots=True)
class Generate:
    """A retry's delay is over."""


@dataclass(frozen=True, slots=True)
class Generated:
    """The model's turn is complete."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class GenerationFailed:
    """The model call failed. `retry_after_ms` is the provider's wish, 0 when it had none."""

    reason: str
    message: str
    retryable: bool
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class SandboxAnswered:
    """Results of all calls that sandboxes ran."""

    results: tuple[ToolResultPart, ...]


@dataclass(frozen=True, slots=True)
class ChildrenAnswered:
    """Results of all delegations of the turn."""

    results: tuple[ToolResultPart, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """The caller wants it to end."""

    message: str = ""


@dataclass(frozen=True, slots=True)
class Fail:
    """It cannot go on."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Exhaust:
    """A budget of the job is used up."""

    budget: str
    limit: int


Command: TypeAlias = (
    Begin | Generate | Generated | GenerationFailed | SandboxAnswered | ChildrenAnswered | Cancel | Fail | Exhaust
)


# --- decide ---------------------------------------------------------------------------------------------------------
def decide(state: RunState, command: Command, tally: Tally) -> tuple[RunPayload, ...]:
    """The facts that follow, in order; empty when the command has no place in this state (it came late or twice)."""
    facts: list[RunPayload] = []
    fact = _answer(state, command)
    while fact is not None:
        facts.append(fact)
        state = evolve(state, fact)
        fact = _follow(state, tally)
    return tuple(facts)


def _answer(state: RunState, command: Command) -> RunPayload | None:
    if state.phase is Phase.STOPPED:
        return None
    if isinstance(command, Cancel | Fail | Exhaust):
        return _stop(command)
    match command:
        case Begin(start=start):
            return start if state.phase is Phase.INIT else None
        case Generate():
            return StartGeneration() if state.phase is Phase.PREPARING else None
        case Generated(turn=turn):
            return _after_turn(state, turn)
        case GenerationFailed():
            return _after_failure(state, command)
        case SandboxAnswered(results=results):
            return settle(_started(state), _turn(state), state.todos, results) if state.phase is Phase.CALLING else None
        case ChildrenAnswered(results=results):
            return _after_children(state, results) if state.phase is Phase.DELEGATING else None
        case _:
            assert_never(command)


def _stop(command: Cancel | Fail | Exhaust) -> RunPayload:
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
        case Phase.PREPARING if not state.retries:
            return StartGeneration()
        case Phase.CALLING if not sandbox_calls(state):
            return settle(_started(state), _turn(state), state.todos, ())
        case Phase.RESOLVING:
            return FinishToolCall()
        case Phase.RESULT if _turn(state).text:
            return CompleteRun(_turn(state).text, state.usage)
        case Phase.FINISHING:
            return _next_step(state, tally)
        case _:
            return None


def _after_turn(state: RunState, turn: Turn) -> RunPayload | None:
    if state.phase is Phase.RESULT:
        return (
            CompleteRun(turn.text, state.usage + turn.usage, turn) if turn.text else _retry(state, "empty_turn", _EMPTY)
        )
    if state.phase is not Phase.GENERATING:
        return None
    if turn.finish_reason is FinishReason.CONTENT_FILTER:
        return StopRunByError(
            "model_refused", "the model's provider refused to answer; change the query or the instruction"
        )
    if not turn.calls:
        return (
            CompleteRun(turn.text, state.usage + turn.usage, turn) if turn.text else _retry(state, "empty_turn", _EMPTY)
        )
    if (repeated := repeated_call(turn)) is not None:  # before all else: no history may hold such a turn
        return _retry(state, "turn_malformed", f"the model gave two calls the same id {repeated[:64]!r}")
    if turn.finish_reason is FinishReason.LENGTH:
        retry = _retry(
            state, "turn_too_long", "the model's turn was cut by its length limit in the middle of a tool call"
        )
        return replace(retry, turn=turn, results=truncated_results(turn)) if isinstance(retry, Retry) else retry
    return CallTools(turn)


_EMPTY: Final = "the model generated nothing"


def _after_failure(state: RunState, failure: GenerationFailed) -> RunPayload | None:
    if state.phase not in {Phase.GENERATING, Phase.RESULT}:
        return None
    if not failure.retryable:
        return StopRunByError(failure.reason, failure.message)
    return _retry(state, failure.reason, failure.message, failure.retry_after_ms)


def _retry(state: RunState, reason: str, message: str, retry_after_ms: int = 0) -> Retry | StopRunByError:
    limit = _started(state).max_retries
    if state.retries >= limit:
        return StopRunByError(reason, f"{message} (given up after {limit} retries)")
    delay = max(min(retry_after_ms, LONGEST_WISH_MS), min(MAX_DELAY_MS, FIRST_DELAY_MS << state.retries))
    return Retry(reason, message, delay)


def _after_children(state: RunState, results: tuple[ToolResultPart, ...]) -> RunPayload:
    """`attemptCompletion` beside delegations counts once they are answered."""
    turn, start = _turn(state), _started(state)
    everything = (*state.results, *results)
    answered = {result.call_id for result in everything}
    if all(call.call_id in answered for call in turn.calls):
        return FinishToolCall(results)
    return settle(start, turn, state.todos, everything, delegated=True)


def _next_step(state: RunState, tally: Tally) -> RunPayload:
    own = _started(state).max_steps
    if own and state.step >= own:
        return StopRunByExceededMaxSteps(own, "run")
    if tally.max_steps and tally.steps >= tally.max_steps:
        return StopRunByExceededMaxSteps(tally.max_steps, "job")
    return ContinueToNextStep(state.step + 1)


# --- evolve ---------------------------------------------------------------------------------------------------------
def evolve(state: RunState, fact: RunPayload) -> RunState:  # noqa: C901, PLR0911, PLR0912 - one case a fact, no logic
    """The state after a fact. Total: every fact that `decide` makes, in any state."""
    match fact:
        case StartRun():
            first = Message(Role.USER, (TextPart(fact.query),))
            return replace(state, phase=Phase.PREPARING, start=fact, messages=(*state.messages, first))
        case StartGeneration():
            return replace(state, phase=Phase.GENERATING)
        case Retry():
            return _evolve_retry(state, fact)
        case CallTools(turn=turn):
            said = _with_turn(state, turn.parts, turn.usage)
            return replace(said, phase=Phase.CALLING, turn=turn, results=())
        case CallDelegate(results=results, todos=todos):
            return replace(_with_todos(state, todos), phase=Phase.DELEGATING, results=(*state.results, *results))
        case CallInteractiveTool(results=results):
            return replace(state, phase=Phase.ASKING, results=(*state.results, *results))
        case ResolveToolResults(results=results, todos=todos):
            return replace(_with_todos(state, todos), phase=Phase.RESOLVING, results=results)
        case AttemptCompletion(call_id=call_id, results=results, todos=todos):
            accepted = ToolResultPart(call_id, (TextPart("accepted"),))
            return _with_tool_message(_with_todos(state, todos), (*results, accepted), Phase.RESULT)
        case FinishToolCall(results=results):
            return _with_tool_message(state, (*state.results, *results), Phase.FINISHING)
        case ContinueToNextStep(step=step):
            return replace(state, phase=Phase.PREPARING, step=step)
        case ResumeToolCalls():
            return replace(state, phase=Phase.CALLING)
        case FinishAllToolCalls():
            return replace(state, phase=Phase.FINISHING)
        case CompleteRun(text=text, turn=turn):
            said = _with_turn(state, _said_only(turn), turn.usage) if turn else state
            return _stopped(said, RunEnd(Outcome.COMPLETED, text))
        case StopRunByInteractiveTool() | StopRunByDelegate():
            return state
        case StopRunByExceededMaxSteps(limit=limit, scope=scope):
            return _stopped(
                state,
                RunEnd(Outcome.STOPPED, "", f"max_steps_{scope}", f"the {scope}'s limit of {limit} steps is reached"),
            )
        case StopRunByExceededBudget(budget=budget, limit=limit):
            return _stopped(
                state,
                RunEnd(Outcome.STOPPED, "", f"budget_{budget}", f"the job's limit of {limit} {budget} is reached"),
            )
        case StopRunByError(reason=reason, message=message):
            return _stopped(state, RunEnd(Outcome.FAILED, "", reason, message))
        case StopRunByCancel(message=message):
            return _stopped(state, RunEnd(Outcome.CANCELLED, "", "cancelled", message or "cancelled by the caller"))
        case _:
            assert_never(fact)


def _evolve_retry(state: RunState, retry: Retry) -> RunState:
    phase = Phase.RESULT if state.phase is Phase.RESULT else Phase.PREPARING
    shown: tuple[Message, ...] = ()
    usage = state.usage
    if retry.turn:
        shown = (Message(Role.ASSISTANT, retry.turn.parts), Message(Role.TOOL, retry.results))
        usage = usage + retry.turn.usage
    return replace(state, phase=phase, retries=state.retries + 1, transient=shown, usage=usage)


def _with_turn(state: RunState, parts: tuple[Part, ...], usage: Usage) -> RunState:
    said = Message(Role.ASSISTANT, parts)
    return replace(state, messages=(*state.messages, said), usage=state.usage + usage, transient=(), retries=0)


def _said_only(turn: Turn) -> tuple[Part, ...]:
    """The turn that ends a run without its calls: nobody answers them, and a history must not hold such a call."""
    return tuple(part for part in turn.parts if not isinstance(part, ToolCallPart))


def _with_tool_message(state: RunState, results: tuple[ToolResultPart, ...], phase: Phase) -> RunState:
    message = Message(Role.TOOL, ordered_results(_turn(state), results))
    return replace(state, phase=phase, messages=(*state.messages, message), results=())


def _with_todos(state: RunState, todos: tuple[TodoItem, ...] | None) -> RunState:
    return state if todos is None else replace(state, todos=todos)


def _stopped(state: RunState, end: RunEnd) -> RunState:
    return replace(state, phase=Phase.STOPPED, end=end)


# --- questions a worker asks ----------------------------------------------------------------------------------------
def sandbox_calls(state: RunState) -> tuple[str, ...]:
    """Ids of the turn's calls that sandboxes run, in order."""
    if state.turn is None or state.start is None:
        return ()
    return tuple(
        call.call_id
        for call, route in routed(state.start, state.turn)
        if route is not None and route.owner is Owner.SANDBOX
    )


def request_messages(state: RunState) -> tuple[Message, ...]:
    """The history that the next model request carries."""
    return state.messages + state.transient if state.transient else state.messages


def interrupted_result(call_id: str, cause: str) -> ToolResultPart:
    """What a call becomes whose sandbox went away: it may or may not have taken effect."""
    return error_result(call_id, "interrupted", f"{cause}; the call may or may not have taken effect")


def _turn(state: RunState) -> Turn:
    if state.turn is None:
        raise ValueError(f"no turn in phase {state.phase}")
    return state.turn


def _started(state: RunState) -> StartRun:
    if state.start is None:
        raise ValueError(f"not started in phase {state.phase}")
    return state.start
