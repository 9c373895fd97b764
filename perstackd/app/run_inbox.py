"""What comes to a run, in one order: asks of its sandboxes, commands, connections that its sandboxes tried."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

import anyio
import structlog

from perstackd.app.run_member import RunMember
from perstackd.domain.commands import Command
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import EgressDenied, Payload, ProxyAccess
from perstackd.domain.messages import ToolResultPart
from perstackd.domain.session import Ask
from perstackd.ports.egress import EgressAccess

MAX_ACCESSES: Final = 500  # connections of one run that its events tell of: a sandbox must not fill the store
TELL_SECONDS: Final = 30.0
_ROOM: Final = 64
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settled:
    """A sandbox was told whose it is: from now on its silence is measured."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An ask, the sandbox that it came from, and its position in what that one says."""

    member: RunMember
    ask: Ask
    position: int


@dataclass(frozen=True, slots=True)
class Overdue:
    """A sandbox has let its time pass."""

    member: RunMember


@dataclass(slots=True)
class Told:
    """A command of somebody who waits until it is carried out: `taken` when it changed something; `error` is why it
    was not.
    """

    command: Command
    done: anyio.Event
    taken: bool = False
    error: PerstackError | None = None


@dataclass(frozen=True, slots=True)
class LookedUp:
    """What the job's archive answered to calls of that step."""

    step: int
    results: tuple[ToolResultPart, ...]


Outcome: TypeAlias = LookedUp | Command


@dataclass(frozen=True, slots=True)
class Finished:
    """What came of a task, or of somebody who does not wait for it. `free` is called when it is taken, and lets the
    task's next of its kind begin.
    """

    outcome: Outcome
    free: Callable[[], object] = bool


Item: TypeAlias = Settled | Heard | Overdue | Told | Finished | EgressAccess


class RunInbox:
    """Bounded; read by the run's worker alone."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._accesses = 0
        self._send, self._receive = anyio.create_memory_object_stream[Item](_ROOM)

    async def put(self, item: Item) -> None:
        """Waits while it is full."""
        await self._send.send(item)

    async def next(self) -> Item:
        """Waits while it is empty."""
        return await self._receive.receive()

    @property
    def empty(self) -> bool:
        """Whether nothing has come that was not read."""
        return not self._receive.statistics().current_buffer_used

    async def tell(self, command: Command) -> bool:
        """Have a command carried out; its facts are durable on return. Returns whether there were any.

        Raises:
            PerstackError: what recording it raised; UNAVAILABLE `run_busy` when it was not taken up in time.
        """
        told = Told(command, anyio.Event())
        try:
            with anyio.fail_after(TELL_SECONDS):
                await self.put(told)
                await told.done.wait()
        except (TimeoutError, anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            raise _busy() from error
        if told.error is not None:
            raise told.error
        return told.taken

    async def post(self, command: Command) -> None:
        """Have a command carried out in its turn, however far away that is; nothing when the run has ended. Raises
        PerstackError UNAVAILABLE `run_busy` when there was no room for it in time.
        """
        try:
            with anyio.fail_after(TELL_SECONDS):
                await self.put(Finished(command))
        except TimeoutError as error:
            raise _busy() from error
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            _log.info("posted to a run that has ended", run_id=self._run_id)

    def saw(self, access: EgressAccess) -> None:
        """A sandbox tried to connect somewhere. What comes too fast or too often goes to the log only."""
        self._accesses += 1
        try:
            if self._accesses > MAX_ACCESSES:
                raise anyio.WouldBlock
            self._send.send_nowait(access)
        except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
            _log.warning("egress access not recorded", run_id=self._run_id, host=access.host)

    def unheard(self) -> list[Payload]:
        """Empties it; the events of connections that were still in it."""
        items: list[Item] = []
        with suppress(anyio.WouldBlock):
            while True:  # also what waits for room
                items.append(self._receive.receive_nowait())
        for item in items:
            if isinstance(item, Told):
                item.error = _busy()
                item.done.set()
        return [access_event(item) for item in items if isinstance(item, EgressAccess)]

    def close(self) -> None:
        """Nothing comes any more, and who waits is told so. Idempotent."""
        self._send.close()
        with suppress(anyio.ClosedResourceError, anyio.EndOfStream):
            self.unheard()
        self._receive.close()


def _busy() -> PerstackError:
    message = "the run did not take this up: it has ended or is very busy; look at the job and try again"
    return PerstackError(Kind.UNAVAILABLE, "run_busy", message, retryable=True)


def access_event(access: EgressAccess) -> Payload:
    """The event of a connection that a sandbox tried."""
    if not access.allowed:
        return EgressDenied(access.host[:255], access.port, access.reason)
    up, down = access.bytes_up, access.bytes_down
    return ProxyAccess(access.host[:255], access.port, up, down, access.duration_ms, access.reason)
