"""What becomes of a turn's calls once the sandboxes answered: who else is asked, and the results in the turn's
order.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from perstackd.domain.commands import Resume
from perstackd.domain.events import (
    ApprovalRequested,
    AttemptCompletion,
    CallDelegate,
    CallInteractiveTool,
    DelegateCall,
    FinishToolCall,
    Owner,
    Question,
    ResolveToolResults,
    ResumeToolCalls,
    StartRun,
    TodoItem,
    ToolRoute,
)
from perstackd.domain.messages import TextPart, ToolCallPart, ToolResultPart, ToolSpec, Turn
from perstackd.domain.questions import MAX_OPEN, approval_question, tool_question
from perstackd.domain.run_state import Phase, RunState
from perstackd.domain.todo import rendered, unfinished, updated

MAX_DEPTH = 8  # levels below the coordinator
MAX_DELEGATES = 16
MAX_CALLS: Final = 256
"""Of one turn: more results of one are taken from no sandbox."""
ATTEMPT_COMPLETION = "attemptCompletion"
TODO = "todo"
CLEAR_TODO = "clearTodo"
DAEMON_TOOLS = frozenset({ATTEMPT_COMPLETION, TODO, CLEAR_TODO})
ARCHIVE_TOOLS: Final = frozenset({"readArtifact", "searchHistory"})
EXECUTED: Final = frozenset({Owner.SANDBOX, Owner.ARCHIVE})

Settled: TypeAlias = (
    ResolveToolResults | CallDelegate | CallInteractiveTool | ApprovalRequested | AttemptCompletion | FinishToolCall
)


def routed(start: StartRun, turn: Turn) -> Iterable[tuple[ToolCallPart, ToolRoute | None]]:
    """Each call with its route; None for a name that the model was never shown."""
    routes = {route.name: route for route in start.routes}
    return [(call, routes.get(call.name)) for call in turn.calls]


def settle(state: RunState, news: tuple[ToolResultPart, ...]) -> Settled:
    """The next fact of a turn whose due calls are answered, `news` the latest: tools first, then delegates, then
    people, completion last. It carries the results that no earlier fact did.
    """
    start, turn = started(state), turn_in_hand(state)
    plan = _Plan(state, list(news))
    known = {result.call_id for result in (*state.results, *news)}
    for call, route in routed(start, turn):
        if call.call_id not in known:
            _place(plan, start, call, route)
    todos = plan.todos if plan.todos != state.todos else None
    results = tuple(plan.results)
    if plan.delegates:
        return CallDelegate(tuple(plan.delegates), results, todos)
    if plan.questions:
        return CallInteractiveTool(tuple(plan.questions), results, todos)
    if plan.approvals:
        return ApprovalRequested(plan.approvals[0], results, todos)
    return _concluded(plan, state, todos)


def _concluded(plan: "_Plan", state: RunState, todos: tuple[TodoItem, ...] | None) -> Settled:
    open_todos = unfinished(plan.todos)
    if plan.completion and not open_todos:
        return AttemptCompletion(plan.completion, tuple(plan.results), todos)
    if plan.completion:
        titles = ", ".join(f"{todo.id}: {todo.title}" for todo in open_todos)
        plan.results.append(
            error_result(plan.completion, "todos_open", f"not completed: these todos are open: {titles}")
        )
    if state.phase is Phase.CALLING:
        return ResolveToolResults(_in_order(turn_in_hand(state), plan.results), todos)
    return FinishToolCall(_in_order(turn_in_hand(state), plan.results))


def next_approval(state: RunState) -> ApprovalRequested | None:
    """The next call of the turn that nobody has been asked about yet."""
    asked = {question.call_id for question in state.questions}
    for call, route in _unanswered(state):
        if route is not None and route.approval and call.call_id not in asked and call.call_id not in state.approved:
            return ApprovalRequested(approval_question(turn_in_hand(state), state.step, call, route))
    return None


def due_calls(state: RunState) -> tuple[str, ...]:
    """Ids of the turn's calls that sandboxes and the archive are to run now, in order."""
    if state.turn is None or state.start is None:
        return ()
    return tuple(
        call.call_id
        for call, route in _unanswered(state)
        if route is not None and route.owner in EXECUTED and (not route.approval or call.call_id in state.approved)
    )


def pending_delegations(state: RunState) -> tuple[DelegateCall, ...]:
    """The delegations of the turn that have no result yet."""
    start = started(state)
    found = (
        _delegation(start, call, route, 0)
        for call, route in _unanswered(state)
        if route is not None and route.owner is Owner.DELEGATE
    )
    return tuple(call for call in found if isinstance(call, DelegateCall))


def resumed(state: RunState, command: Resume) -> ResumeToolCalls:
    """How a turn goes on whose sandbox is gone: what is read-only or idempotent, or was not begun, is called again; the
    others may or may not have taken effect, which the model is told.
    """
    specs = {tool.name: tool for tool in started(state).tools}
    names = {call.call_id: call.name for call in turn_in_hand(state).calls}
    came = {result.call_id for result in command.results}
    due = [call_id for call_id in due_calls(state) if call_id not in came]
    again = tuple(call for call in due if call in command.untouched or _repeatable(specs.get(names[call])))
    unknown = tuple(interrupted_result(call_id, command.cause) for call_id in due if call_id not in again)
    return ResumeToolCalls(again, (*command.results, *unknown))


def interrupted_result(call_id: str, cause: str) -> ToolResultPart:
    """What a call becomes whose sandbox went away: it may or may not have taken effect."""
    return error_result(call_id, "interrupted", f"{cause}; the call may or may not have taken effect")


def _repeatable(spec: ToolSpec | None) -> bool:
    return spec is not None and (spec.read_only or spec.idempotent)


def _unanswered(state: RunState) -> Iterable[tuple[ToolCallPart, ToolRoute | None]]:
    known = {result.call_id for result in state.results}
    pairs = routed(started(state), turn_in_hand(state))
    return [(call, route) for call, route in pairs if call.call_id not in known]


def turn_in_hand(state: RunState) -> Turn:
    """Raises ValueError where there is none: a fold that no decision made."""
    if state.turn is None:
        raise ValueError(f"no turn in phase {state.phase}")
    return state.turn


def started(state: RunState) -> StartRun:
    """Raises ValueError before the run's first fact."""
    if state.start is None:
        raise ValueError(f"not started in phase {state.phase}")
    return state.start


@dataclass(slots=True)
class _Plan:
    """What the calls of a turn add up to; local to `settle`."""

    state: RunState
    results: list[ToolResultPart]
    todos: tuple[TodoItem, ...] = ()
    delegates: list[DelegateCall] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    approvals: list[Question] = field(default_factory=list)
    completion: str = ""

    def __post_init__(self) -> None:
        self.todos = self.state.todos


def _place(plan: _Plan, start: StartRun, call: ToolCallPart, route: ToolRoute | None) -> None:
    match route:
        case None:
            plan.results.append(
                error_result(call.call_id, "no_such_tool", f"there is no tool named {call.name[:64]!r}")
            )
        case ToolRoute(owner=Owner.DELEGATE):
            outcome = _delegation(start, call, route, len(plan.delegates))
            if isinstance(outcome, DelegateCall):
                plan.delegates.append(outcome)
            else:
                plan.results.append(outcome)
        case ToolRoute(owner=Owner.PERSON):
            _ask(plan, start, call, route)
        case ToolRoute(owner=Owner.DAEMON, target=target) if target == ATTEMPT_COMPLETION:
            plan.completion = plan.completion or call.call_id
        case ToolRoute(owner=Owner.DAEMON):
            plan.todos, result = _todo(plan.todos, call, route)
            plan.results.append(result)
        case ToolRoute(approval=True) if call.call_id not in plan.state.approved:
            plan.approvals.append(approval_question(turn_in_hand(plan.state), plan.state.step, call, route))
        case _:
            plan.results.append(error_result(call.call_id, "not_run", "this call was not run"))


def _ask(plan: _Plan, start: StartRun, call: ToolCallPart, route: ToolRoute) -> None:
    if len(plan.questions) >= MAX_OPEN:
        plan.results.append(
            error_result(call.call_id, "too_many_questions", f"one turn may ask at most {MAX_OPEN} questions")
        )
        return
    state = plan.state
    plan.questions.append(tool_question(start, turn_in_hand(state), state.step, call, route))


def _delegation(start: StartRun, call: ToolCallPart, route: ToolRoute, already: int) -> DelegateCall | ToolResultPart:
    query = call.arguments.get("query")
    if not isinstance(query, str) or not query.strip():
        return error_result(
            call.call_id, "bad_arguments", "a delegate takes {query: text} with a text that is not empty"
        )
    if start.depth >= MAX_DEPTH:
        return error_result(call.call_id, "too_deep", f"delegation is limited to {MAX_DEPTH} levels")
    if already >= MAX_DELEGATES:
        return error_result(call.call_id, "too_many_delegates", f"one turn may start at most {MAX_DELEGATES} delegates")
    return DelegateCall(call.call_id, route.target, query)


def _todo(
    todos: tuple[TodoItem, ...], call: ToolCallPart, route: ToolRoute
) -> tuple[tuple[TodoItem, ...], ToolResultPart]:
    if route.target == CLEAR_TODO:
        return (), ToolResultPart(call.call_id, (TextPart('{"todos":[]}'),))
    try:
        changed = updated(todos, call.arguments)
    except ValueError as error:
        return todos, error_result(call.call_id, "bad_arguments", str(error))
    text = json.dumps(rendered(changed), ensure_ascii=False, separators=(",", ":"))
    return changed, ToolResultPart(call.call_id, (TextPart(text),))


def _in_order(turn: Turn, results: list[ToolResultPart]) -> tuple[ToolResultPart, ...]:
    places = {call.call_id: place for place, call in enumerate(turn.calls)}
    known = [result for result in results if result.call_id in places]
    return tuple(sorted(known, key=lambda result: places[result.call_id]))


def ordered_results(turn: Turn, results: tuple[ToolResultPart, ...]) -> tuple[ToolResultPart, ...]:
    """Results in the order of the turn's calls; a call without one, such as a second attemptCompletion, gets an
    error result.
    """
    known = {result.call_id: result for result in results}
    return tuple(
        known.get(call.call_id) or error_result(call.call_id, "not_run", "this call was not run") for call in turn.calls
    )


def truncated_results(turn: Turn) -> tuple[ToolResultPart, ...]:
    """What the model sees of calls that its length limit cut."""
    message = "the turn was cut by the output limit, nothing was run; write less in one call"
    return tuple(error_result(call.call_id, "turn_too_long", message) for call in turn.calls)


def crowded_results(turn: Turn) -> tuple[ToolResultPart, ...]:
    """What the model sees of calls that are too many at once."""
    message = f"the turn has {len(turn.calls)} calls, nothing was run; make at most {MAX_CALLS} at once"
    return tuple(error_result(call.call_id, "too_many_calls", message) for call in turn.calls)


def repeated_call(turn: Turn) -> str | None:
    """The first id that two calls share, which may well be empty; None when there is none."""
    seen: set[str] = set()
    for call in turn.calls:
        if call.call_id in seen:
            return call.call_id
        seen.add(call.call_id)
    return None


def error_result(call_id: str, error: str, message: str) -> ToolResultPart:
    """An error in the form of Perstack's base tools: `{error, message}`."""
    text = json.dumps({"error": error, "message": message}, ensure_ascii=False, separators=(",", ":"))
    return ToolResultPart(call_id, (TextPart(text),), is_error=True)
