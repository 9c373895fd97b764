"""What becomes of a turn's calls once the sandboxes answered: who else is asked, and the results in the turn's
order.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field

from perstackd.domain.events import (
    AttemptCompletion,
    CallDelegate,
    DelegateCall,
    Owner,
    ResolveToolResults,
    StartRun,
    TodoItem,
    ToolRoute,
)
from perstackd.domain.messages import TextPart, ToolCallPart, ToolResultPart, Turn
from perstackd.domain.todo import rendered, unfinished, updated

MAX_DEPTH = 8  # levels below the coordinator
MAX_DELEGATES = 16
ATTEMPT_COMPLETION = "attemptCompletion"
TODO = "todo"
CLEAR_TODO = "clearTodo"
DAEMON_TOOLS = frozenset({ATTEMPT_COMPLETION, TODO, CLEAR_TODO})


def routed(start: StartRun, turn: Turn) -> Iterable[tuple[ToolCallPart, ToolRoute | None]]:
    """Each call with its route; None for a name that the model was never shown."""
    routes = {route.name: route for route in start.routes}
    return [(call, routes.get(call.name)) for call in turn.calls]


def settle(
    start: StartRun,
    turn: Turn,
    todos: tuple[TodoItem, ...],
    answered: tuple[ToolResultPart, ...],
    *,
    delegated: bool = False,
) -> ResolveToolResults | CallDelegate | AttemptCompletion:
    """The next fact of a turn whose sandbox calls are `answered`: tools first, then delegates, completion last.

    With `delegated` the delegations are among the answers.
    """
    known = {result.call_id for result in answered}
    plan = _Plan(todos, list(answered))
    for call, route in routed(start, turn):
        if call.call_id not in known:
            _place(plan, start, call, route)
    news = plan.todos if plan.todos != todos else None
    if plan.delegates and not delegated:
        return CallDelegate(tuple(plan.delegates), tuple(plan.results), news)
    open_todos = unfinished(plan.todos)
    if plan.completion and not open_todos:
        return AttemptCompletion(plan.completion, tuple(plan.results), news)
    if plan.completion:
        titles = ", ".join(f"{todo.id}: {todo.title}" for todo in open_todos)
        plan.results.append(
            error_result(plan.completion, "todos_open", f"not completed: these todos are open: {titles}")
        )
    return ResolveToolResults(ordered_results(turn, tuple(plan.results)), news)


@dataclass(slots=True)
class _Plan:
    """What the calls of a turn add up to; local to `settle`."""

    todos: tuple[TodoItem, ...]
    results: list[ToolResultPart]
    delegates: list[DelegateCall] = field(default_factory=list)
    completion: str = ""


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
        case ToolRoute(owner=Owner.DAEMON, target=target) if target == ATTEMPT_COMPLETION:
            plan.completion = plan.completion or call.call_id
        case ToolRoute(owner=Owner.DAEMON):
            plan.todos, result = _todo(plan.todos, call, route)
            plan.results.append(result)
        case _:
            plan.results.append(error_result(call.call_id, "no_answer", f"nobody answers {call.name[:64]!r} here yet"))


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
