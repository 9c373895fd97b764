"""The fold: a run's state after each of its facts. Total over what `decide` makes, and no decision in it."""

from dataclasses import replace
from typing import assert_never

from perstackd.domain.budget import reached
from perstackd.domain.compaction import TOO_LONG, compacted, not_compacted
from perstackd.domain.context_size import message_tokens, parts_tokens, prompt_tokens
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
    ContinueToNextStep,
    ElicitationRequested,
    FinishAllToolCalls,
    FinishToolCall,
    HistoryInherited,
    Question,
    QuestionAnswered,
    QuestionKind,
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
from perstackd.domain.messages import Message, Part, Role, TextPart, ToolCallPart, ToolResultPart, Turn, Usage
from perstackd.domain.questions import answer_result, denied_result
from perstackd.domain.run_state import Outcome, Phase, RunEnd, RunState, Window
from perstackd.domain.tool_calls import ordered_results, turn_in_hand


def evolve(state: RunState, fact: RunPayload) -> RunState:  # noqa: C901, PLR0911, PLR0912 - one case a fact, no logic
    """The state after a fact. Total: every fact that `decide` makes, in any state."""
    match fact:
        case HistoryInherited(start=start, messages=messages, todos=todos):
            return replace(state, start=start, messages=messages, todos=todos)
        case StartRun():
            return _started(state, fact)
        case StartGeneration():
            return replace(state, phase=Phase.GENERATING)
        case Retry():
            return _evolve_retry(state, fact)
        case CallTools(turn=turn):
            said = _with_turn(state, turn.parts, turn.usage)
            return replace(said, phase=Phase.CALLING, turn=turn, results=(), approved=())
        case CallDelegate(results=results, todos=todos):
            return replace(_with_results(state, results, todos), phase=Phase.DELEGATING)
        case CallInteractiveTool(questions=questions, results=results, todos=todos):
            return _asking(_with_results(state, results, todos), *questions)
        case ApprovalRequested(question=question, results=results, todos=todos):
            return _asking(_with_results(state, results, todos), question)
        case ElicitationRequested(question=question):
            return replace(state, questions=(*state.questions, question))
        case QuestionAnswered() | ApprovalDecided():
            return _answered(state, fact)
        case ResolveToolResults(results=results, todos=todos):
            return replace(_with_results(state, results, todos), phase=Phase.RESOLVING)
        case AttemptCompletion(call_id=call_id, results=results, todos=todos):
            accepted = ToolResultPart(call_id, (TextPart("accepted"),))
            return _with_tool_message(_with_results(state, (*results, accepted), todos), Phase.RESULT)
        case FinishToolCall(results=results):
            return _with_tool_message(_with_results(state, results), Phase.FINISHING)
        case ContinueToNextStep(step=step):
            return replace(state, phase=Phase.PREPARING, step=step)
        case ResumeToolCalls(results=results):
            # The servers that asked are gone; one that is called again asks again.
            return replace(_with_results(state, results), phase=Phase.CALLING, questions=())
        case FinishAllToolCalls():
            return replace(state, phase=Phase.FINISHING)
        case ContextCompacted():
            return compacted(state, fact)
        case CompactionFailed():
            return not_compacted(state, fact)
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
            return _stopped(state, RunEnd(Outcome.STOPPED, "", f"budget_{budget}", reached(budget, limit)))
        case StopRunByError(reason=reason, message=message):
            return _stopped(state, RunEnd(Outcome.FAILED, "", reason, message))
        case StopRunByCancel(message=message):
            return _stopped(state, RunEnd(Outcome.CANCELLED, "", "cancelled", message or "cancelled by the caller"))
        case _:
            assert_never(fact)


def _started(state: RunState, start: StartRun) -> RunState:
    asked = (Message(Role.USER, (TextPart(start.query),)),) if start.query else ()  # none: it goes on where it stood
    messages = (*state.messages, *asked)
    known = prompt_tokens(start.system, start.tools) + sum(map(message_tokens, messages))
    return replace(state, phase=Phase.PREPARING, start=start, messages=messages, window=Window(known))


def _evolve_retry(state: RunState, retry: Retry) -> RunState:
    phase = Phase.RESULT if state.phase is Phase.RESULT else Phase.PREPARING
    shown: tuple[Message, ...] = ()
    usage = state.usage
    if retry.turn:
        shown = (Message(Role.ASSISTANT, retry.turn.parts), Message(Role.TOOL, retry.results))
        usage = usage + retry.turn.usage
    window = state.window
    if retry.reason == TOO_LONG:
        window = replace(window, refused=True, given_up=False, failures=0, too_long=0)
    return replace(state, phase=phase, retries=state.retries + 1, transient=shown, usage=usage, window=window)


def _with_turn(state: RunState, parts: tuple[Part, ...], usage: Usage) -> RunState:
    said = Message(Role.ASSISTANT, parts)
    counted = usage.input_tokens + usage.output_tokens if usage.input_tokens else 0
    window = Window(counted or state.window.tokens + parts_tokens(parts), given_up=state.window.given_up)
    return replace(
        state, messages=(*state.messages, said), usage=state.usage + usage, transient=(), retries=0, window=window
    )


def _said_only(turn: Turn) -> tuple[Part, ...]:
    """The turn that ends a run without its calls: nobody answers them, and a history must not hold such a call."""
    return tuple(part for part in turn.parts if not isinstance(part, ToolCallPart))


def _with_tool_message(state: RunState, phase: Phase) -> RunState:
    message = Message(Role.TOOL, ordered_results(turn_in_hand(state), state.results))
    window = replace(state.window, added=state.window.added + message_tokens(message))
    return replace(state, phase=phase, messages=(*state.messages, message), results=(), window=window)


def _with_results(
    state: RunState, results: tuple[ToolResultPart, ...], todos: tuple[TodoItem, ...] | None = None
) -> RunState:
    """A server's question ends with the call that it was asked in."""
    answered = {result.call_id for result in results}
    open_ones = tuple(
        question
        for question in state.questions
        if question.kind is not QuestionKind.ELICITATION or question.call_id not in answered
    )
    return replace(
        state,
        results=(*state.results, *results),
        questions=open_ones,
        todos=state.todos if todos is None else todos,
    )


def _asking(state: RunState, *questions: Question) -> RunState:
    return replace(state, phase=Phase.ASKING, questions=(*state.questions, *questions))


def _answered(state: RunState, fact: QuestionAnswered | ApprovalDecided) -> RunState:
    left = replace(state, questions=tuple(question for question in state.questions if question.id != fact.id))
    match fact:
        case ApprovalDecided(approved=True):
            return replace(left, approved=(*state.approved, fact.call_id))
        case ApprovalDecided():
            return replace(left, results=(*state.results, denied_result(fact)))
        case QuestionAnswered(kind=QuestionKind.TOOL):
            return replace(left, results=(*state.results, answer_result(fact)))
        case QuestionAnswered():
            return left
        case _:
            assert_never(fact)


def _stopped(state: RunState, end: RunEnd) -> RunState:
    return replace(state, phase=Phase.STOPPED, end=end, questions=())
