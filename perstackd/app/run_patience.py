"""The moment at which a run stops waiting for its sandbox."""

import math

import anyio

from perstackd.app.run_context import RunLimits
from perstackd.domain.patience import patience_ms
from perstackd.domain.session import Session


class Patience:
    """`deadline` is by the event loop's clock, infinite while it is the daemon's turn. `tool_ms` is the bound of the
    sandbox's slowest tool, `start_ms` that of its slowest skill's start.
    """

    def __init__(self, limits: RunLimits, tool_ms: int, start_ms: int) -> None:
        self.deadline = math.inf
        self._limits = limits
        self._tool_ms = tool_ms
        self._start_ms = start_ms
        self._place = ("", 0, False)

    def watch(self, session: Session) -> None:
        """To be called whenever the session may have changed; time starts anew only when its state or step did."""
        place = (session.state, session.step, bool(session.elicitations))
        if place == self._place:
            return
        self._place = place
        wait = patience_ms(session, self._start_ms, self._tool_ms, self._limits.answer_margin_ms)
        self.deadline = math.inf if wait is None else anyio.current_time() + wait / 1000
