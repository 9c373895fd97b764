"""The end of a sandbox: every trace of it goes, and what resists is tried again later, out of everybody's way."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from perstackd.app.warm_pool.files import SandboxFiles
from perstackd.app.warm_pool.held_link import HeldLink
from perstackd.app.warm_pool.unforeseen import place_of
from perstackd.app.warm_pool.wiring import PoolLimits, PoolPorts, bounded
from perstackd.domain.errors import PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import SandboxRecord
from perstackd.domain.traces import Leftover

_log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Remains:
    """What may be left of a sandbox. `tried` is set after the first attempt, whatever came of it; `problems` are what
    resisted the last one.

    `row` is to be stored before the container goes, when what is stored still says that the sandbox is idle.
    """

    sandbox_id: SandboxId
    link: HeldLink | None = None
    row: SandboxRecord | None = None
    container: bool = True
    traces: tuple[Leftover, ...] = ()
    problems: tuple[str, ...] = ()
    tried: asyncio.Event = field(default_factory=asyncio.Event)


def pause(attempts: int) -> float:
    """Seconds before the next attempt: 5, 10, 20 ... 300."""
    return min(300.0, 5.0 * 2.0 ** min(attempts - 1, 10))


class Remover:
    """Detach, close egress and link, remove the container and what the engine left of it; only then directories and
    row, so that nothing is forgotten.

    The row of a sandbox that was idle says so no more before its container goes: a daemon that is killed in between
    must not leave one for adoption that was given up. Once the container is gone it makes no difference.

    Every step is idempotent and is tried again with the others. Engine calls are gated, the rest is not.
    """

    def __init__(self, ports: PoolPorts, limits: PoolLimits, files: SandboxFiles) -> None:
        self._ports = ports
        self._limits = limits
        self._files = files
        self._gate = asyncio.Semaphore(limits.removals)

    async def until_gone(self, remains: Remains, resists: Callable[[], None]) -> None:
        """Try until nothing is left; `resists` is called after each attempt that failed."""
        attempts = 0
        while await self.attempt(remains):
            attempts += 1
            wait = pause(attempts)
            _log.warning(
                "sandbox in quarantine",
                sandbox_id=remains.sandbox_id,
                attempts=attempts,
                next_seconds=wait,
                problems=remains.problems,
            )
            resists()
            await self._ports.sleep(wait)

    async def hang_up(self, link: HeldLink | None) -> None:
        """Close the link of a sandbox that stays. Never raises but for cancellation."""
        if problem := await self._step("close link", lambda: _close(link)):
            _log.warning("link not closed", problem=problem)

    async def attempt(self, remains: Remains) -> tuple[str, ...]:
        """Try every step once; returns what failed. Never raises but for cancellation."""
        try:
            slot = self._files.of(remains.sandbox_id).directories.slot
            problems = [await self._step("detach", lambda: self._ports.workspaces.detach(remains.sandbox_id, slot))]
            unmarked = await self._step("mark the row", lambda: self._mark(remains))
            problems += [
                await self._step("close egress", lambda: self._ports.egress.close(remains.sandbox_id)),
                await self._step("close link", lambda: _close(remains.link)),
                await self._step("remove container", lambda: self._container(remains)),
                await self._step("traces", lambda: self._traces(remains)),
            ]
            if any(problems):
                problems.append(unmarked)
            else:
                problems.append(await self._step("directories", lambda: self._files.delete(remains.sandbox_id)))
            if not any(problems):
                problems.append(await self._step("row", lambda: self._ports.rows.delete(remains.sandbox_id)))
            remains.problems = tuple(filter(None, problems))
            return remains.problems
        finally:
            remains.tried.set()

    async def _mark(self, remains: Remains) -> None:
        if remains.row is not None:
            await self._ports.rows.put(remains.row)
            remains.row = None

    async def _container(self, remains: Remains) -> None:
        if remains.container:
            async with self._gate:
                await self._ports.sandboxes.remove(remains.sandbox_id)

    async def _traces(self, remains: Remains) -> None:
        if self._ports.traces is not None:
            for leftover in remains.traces:
                await self._ports.traces.remove(leftover)

    async def _step(self, name: str, call: Callable[[], Awaitable[None]]) -> str:
        """Why it failed; empty when it did not. An unforeseen exception must not end the pool over one sandbox."""
        try:
            await bounded(name, self._limits.step_seconds, call())
        except (PerstackError, OSError) as error:
            return f"{name}: {error}"
        except Exception as error:
            _log.error("step of a removal failed in an unforeseen way", step=name, error=place_of(error))
            return f"{name}: {type(error).__name__}"
        return ""


async def _close(link: HeldLink | None) -> None:
    if link is not None:
        await link.close()
