"""The part of a turn that a sandbox runs."""

import json

from perstackd.domain.events import Owner, StartRun
from perstackd.domain.messages import Turn
from perstackd.domain.session import RoutedCall, TurnOrder
from perstackd.domain.tool_calls import routed


def turn_order(start: StartRun, turn: Turn, step: int) -> TurnOrder:
    """Calls by their owner's own names; perhaps none, which lets the runner ask for the next step."""
    calls = tuple(
        RoutedCall(call.call_id, route.skill, route.target, _canonical(call.arguments))
        for call, route in routed(start, turn)
        if route is not None and route.owner is Owner.SANDBOX
    )
    return TurnOrder(step, calls)


def _canonical(arguments: object) -> str:
    return json.dumps(arguments, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
