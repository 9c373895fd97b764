"""What a warm pool is built from: its ports and its bounds, as values."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from perstackd.domain.errors import Kind, PerstackError
from perstackd.ports.clock import Clock
from perstackd.ports.counters import CounterReader
from perstackd.ports.egress import Egress
from perstackd.ports.event_store import SandboxIndex
from perstackd.ports.halts import Halts
from perstackd.ports.room import Room
from perstackd.ports.runner_link import RunnerLinks
from perstackd.ports.sandboxes import Sandboxes
from perstackd.ports.traces import Traces
from perstackd.ports.workspaces import Workspaces

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PoolPorts:
    """The world as the pool needs it. `sleep` is time passing, for pauses and periods; tests drive it by hand. Without
    a `room` the machine's watermarks are not looked at, without `traces` nothing but containers, rows and directories;
    without `halts` what runs in a sandbox ends with its container, without `counters` only the engine tells how it
    ended.
    """

    sandboxes: Sandboxes
    links: RunnerLinks
    workspaces: Workspaces
    egress: Egress
    rows: SandboxIndex
    clock: Clock
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    room: Room | None = None
    traces: Traces | None = None
    halts: Halts | None = None
    counters: CounterReader | None = None


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Bounds. Seconds, but for the uids (each live sandbox has one of its own), `removals` and `adoptions` (at once)
    and `max_waiting`.

    `step_seconds` bounds one call of a port, `boot_seconds` how long entering the pool waits for its first sandboxes,
    and all adoptions together; `return_seconds` how long a runner of an earlier daemon has to come back. What is
    nobody's is gone within 30 s: what `reconcile_seconds` finds twice is removed in the rest of it.
    """

    uid_first: int = 200_000
    uid_last: int = 265_535
    hello_seconds: float = 15.0
    return_seconds: float = 5.0
    probe_seconds: float = 5.0
    step_seconds: float = 60.0
    end_seconds: float = 5.0
    boot_seconds: float = 15.0
    drain_seconds: float = 10.0
    shutdown_seconds: float = 20.0
    reconcile_seconds: float = 10.0
    removals: int = 4
    adoptions: int = 8
    max_waiting: int = 10_000


async def bounded(what: str, seconds: float, call: Awaitable[T]) -> T:
    """What `call` returns, waited for at most `seconds`.

    Raises:
        PerstackError: TIMEOUT `pool_step_timeout`, and what the call raises.
    """
    try:
        async with asyncio.timeout(seconds) as scope:
            return await call
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise PerstackError(
            Kind.TIMEOUT,
            "pool_step_timeout",
            f"{what} took more than {seconds:g} s and was given up; see the log of what it depends on",
            fields={"step": what},
            retryable=True,
        ) from error
