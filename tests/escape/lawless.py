"""A daemon without the laws that hold a runner: the control of what a hostile one tries. Everything else is real.

Takes any message in any state and of any step, believes results of calls that were not the sandbox's, has no bounds on
what comes and no memory of who the runner is.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from perstackd.app import call_wave, feed, run_member
from perstackd.domain.commands import CallsAnswered
from perstackd.domain.session import NextTurn, Session, ToolResults
from perstackd.domain.tool_calls import due_calls
from perstackd.rpc import runner, runner_stream
from tests.e2e import daemon

NONE = 1 << 40


def asked(session: Session, ask: Any) -> tuple[Session, str]:
    """Every message is legal. A result ends the turn, a question for a turn is answered."""
    if isinstance(ask, NextTurn):
        return replace(session, state="waiting"), ""
    if isinstance(ask, ToolResults):
        return replace(session, state="reported", step=session.step + 1), ""
    return session, ""


def came_back(self: call_wave.CallWave, state: Any, results: Any) -> CallsAnswered | None:
    """All that came counts, once nothing is missing."""
    self._came.update((result.call_id, result) for result in results)
    due = due_calls(state)
    if not due or any(call_id not in self._came for call_id in due):
        return None
    came, self._came = tuple(self._came.values()), {}
    return CallsAnswered(came)


async def _left_open(_: runner.SocketRunnerLink) -> None:
    """Anybody may dial, at any time."""


def lift(*, hides: bool) -> None:
    """In this process, for good. A daemon that `hides` its sockets forgets who its runners are when it is restarted,
    and not before.
    """
    run_member.asked = asked  # type: ignore[attr-defined]
    call_wave.CallWave.came_back = came_back  # type: ignore[method-assign]
    runner.LinkLimits = partial(  # type: ignore[assignment, attr-defined]
        runner_stream.LinkLimits, message_bytes=64 << 20, messages_per_second=NONE, messages_burst=NONE,
        bytes_per_second=NONE, bytes_burst=NONE,
    )  # fmt: skip
    forgetful = runner.Resumed()
    runner.Resumed = lambda *_: forgetful  # type: ignore[assignment, misc]
    runner.SocketRunnerLink._taken = property(lambda _: False, lambda *_: None)  # type: ignore[assignment]
    if not hides:
        runner.SocketRunnerLink._hide = _left_open  # type: ignore[method-assign, assignment]
    feed.BACKLOG = feed.BACKLOG_BYTES = feed.TEXT_KEPT = NONE  # type: ignore[misc]


def serve(home: str, settings: Mapping[str, Any], real_providers: bool, secrets: Mapping[str, str]) -> None:
    """A daemon's main function, as the e2e tests'; without the laws."""
    lift(hides=False)
    daemon.serve(home, settings, real_providers, secrets)


def serve_hiding(home: str, settings: Mapping[str, Any], real_providers: bool, secrets: Mapping[str, str]) -> None:
    """The same, and nobody can dial a runner's socket while its session lasts."""
    lift(hides=True)
    daemon.serve(home, settings, real_providers, secrets)
