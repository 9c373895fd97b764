"""Which sandbox, or whose archive, runs which of a turn's calls."""

import json
from dataclasses import dataclass

from perstackd.domain.events import Owner
from perstackd.domain.messages import ToolCallPart
from perstackd.domain.run_state import RunState
from perstackd.domain.session import RoutedCall
from perstackd.domain.tool_calls import due_calls, routed, started, turn_in_hand

EXPERT = ""
"""The expert's own sandbox, among the names of skills."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """`sandboxes` are (skill or EXPERT, its calls by the owner's own names); `archive` are the daemon's."""

    sandboxes: tuple[tuple[str, tuple[RoutedCall, ...]], ...]
    archive: tuple[ToolCallPart, ...]


def dispatch(state: RunState, own: frozenset[str]) -> Dispatch:
    """The calls that are due, by who runs them. `own` names the skills with a sandbox of their own."""
    due = frozenset(due_calls(state))
    sandboxes: dict[str, list[RoutedCall]] = {}
    archive: list[ToolCallPart] = []
    for call, route in routed(started(state), turn_in_hand(state)):
        if call.call_id not in due or route is None:
            continue
        if route.owner is Owner.ARCHIVE:
            archive.append(call)
            continue
        place = route.skill if route.skill in own else EXPERT
        order = RoutedCall(call.call_id, route.skill, route.target, _canonical(call.arguments))
        sandboxes.setdefault(place, []).append(order)
    return Dispatch(tuple((place, tuple(calls)) for place, calls in sandboxes.items()), tuple(archive))


def _canonical(arguments: object) -> str:
    return json.dumps(arguments, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
