"""What a run must have been told for a fact of its log to be written: the command, made of what the fact records of it.

Only of facts that answer a command; those that follow from another fact in the same moment have no cause of their own.
"""

import json
from collections.abc import Collection
from typing import Final

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
    Summarised,
    SummaryFailed,
)
from perstackd.domain.events import (
    ApprovalDecided,
    ApprovalRequested,
    AttemptCompletion,
    CallDelegate,
    CallInteractiveTool,
    CallTools,
    CompactionFailed,
    CompleteRun,
    ContextCompacted,
    ElicitationRequested,
    FinishToolCall,
    QuestionAnswered,
    ResolveToolResults,
    ResumeToolCalls,
    Retry,
    RunPayload,
    StartGeneration,
    StartRun,
    StopRunByCancel,
    StopRunByError,
    StopRunByExceededBudget,
    StopRunByInteractiveTool,
)
from perstackd.domain.messages import FinishReason, TextPart, ToolResultPart, Turn
from perstackd.domain.questions import elicitation_fence
from perstackd.domain.run_state import Phase, RunState
from perstackd.domain.tool_calls import due_calls, pending_delegations

_INTERRUPTED: Final = "; the call may or may not have taken effect"
_GIVEN_UP: Final = " (given up after "


def cause_of(state: RunState, fact: RunPayload) -> Command | None:  # noqa: C901, PLR0911, PLR0912 - one case a fact
    """The command; None for a fact that no command alone can have brought about."""
    match fact:
        case StartRun():
            return Begin(fact)
        case StartGeneration():
            return Generate()
        case CallTools(turn=turn):
            return Generated(turn)
        case Retry():
            return _failed_turn(fact)
        case CompleteRun(turn=turn):
            return Generated(turn) if turn is not None else None
        case ContextCompacted(summary=summary, usage=usage, model=model):
            return Summarised(Turn((TextPart(summary),), FinishReason.STOP, usage, model))
        case CompactionFailed():
            return _no_summary(fact)
        case ResumeToolCalls():
            return _interrupted(fact)
        case ElicitationRequested(question=question, elicitation=number):
            fence = elicitation_fence(question)
            return Elicited(question.call_id, number, question.message, question.answer_schema, fence)
        case QuestionAnswered(id=question_id, action=action, content=content):
            return Answer(question_id, action, content)
        case ApprovalDecided(id=question_id, approved=approved, reason=reason):
            return Answer(question_id, "approve" if approved else "deny", reason)
        case StopRunByInteractiveTool():
            return Park()
        case StopRunByCancel(message=message):
            return Cancel(message)
        case StopRunByExceededBudget(budget=budget, limit=limit):
            return Exhaust(budget, limit)
        case StopRunByError():
            return _stopped(state, fact)
        case (
            ResolveToolResults(results=results)
            | CallDelegate(results=results)
            | CallInteractiveTool(results=results)
            | ApprovalRequested(results=results)
            | AttemptCompletion(results=results)
            | FinishToolCall(results=results)
        ):
            return _answered(state, results)
        case _:
            return None


def _answered(state: RunState, results: tuple[ToolResultPart, ...]) -> Command | None:
    if state.phase is Phase.CALLING:
        return CallsAnswered(_of(results, due_calls(state)))
    if state.phase is Phase.DELEGATING:
        return ChildrenAnswered(_of(results, [call.call_id for call in pending_delegations(state)]))
    return None


def _of(results: tuple[ToolResultPart, ...], call_ids: Collection[str]) -> tuple[ToolResultPart, ...]:
    """The results of these calls, in their order; the others were made by the law."""
    known = {result.call_id: result for result in results}
    return tuple(known[call_id] for call_id in call_ids if call_id in known)


def _failed_turn(retry: Retry) -> Command:
    if retry.turn is not None:
        return Generated(retry.turn)
    if retry.reason == "empty_turn":
        return Generated(Turn((), FinishReason.STOP))
    return GenerationFailed(retry.reason, retry.message, retryable=True, retry_after_ms=retry.delay_ms)


def _no_summary(fact: CompactionFailed) -> Command:
    if fact.reason == "summary_empty":
        return Summarised(Turn((), FinishReason.STOP, fact.usage))
    return SummaryFailed(fact.reason, fact.message, retryable=not fact.given_up, retry_after_ms=fact.delay_ms)


def _stopped(state: RunState, fact: StopRunByError) -> Command:
    """The provider's last failure when the law gave up, else somebody's order."""
    message, given_up, _ = fact.message.rpartition(_GIVEN_UP)
    if given_up and state.phase in {Phase.GENERATING, Phase.RESULT}:
        return GenerationFailed(fact.reason, message, retryable=True)
    return Fail(fact.reason, fact.message)


def _interrupted(fact: ResumeToolCalls) -> Resume:
    causes = {result.call_id: cause for result in fact.results if (cause := _cause(result)) is not None}
    came = tuple(result for result in fact.results if result.call_id not in causes)
    return Resume(next(iter(causes.values()), ""), came, frozenset(fact.call_ids))


def _cause(result: ToolResultPart) -> str | None:
    """Why the sandbox of an interrupted call was gone; None for another result."""
    if not result.is_error or len(result.content) != 1 or not isinstance(result.content[0], TextPart):
        return None
    try:
        told = json.loads(result.content[0].text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or told.get("error") != "interrupted":
        return None
    message = told.get("message")
    return message.removesuffix(_INTERRUPTED) if isinstance(message, str) else None
