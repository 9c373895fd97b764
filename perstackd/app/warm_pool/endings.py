"""Which sandboxes are going, and the tasks that see to it."""

import asyncio
from collections.abc import Callable
from typing import Final

import anyio
import structlog

from perstackd.app.warm_pool.crew import Crew
from perstackd.app.warm_pool.postures import Postures
from perstackd.app.warm_pool.removal import Remains, Remover
from perstackd.app.warm_pool.roster import Member, Roster
from perstackd.domain import pool
from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import SandboxState
from perstackd.domain.traces import Leftover
from perstackd.ports.clock import Clock

HANG_UP_SECONDS: Final = 1.0
"""For hanging up on all that could not be removed in time."""

_log = structlog.get_logger()


class Endings:
    """`changed` is called when one is gone or resists. `postures` are told, so that they are kept a while."""

    def __init__(self, clock: Clock, roster: Roster, crew: Crew, remover: Remover) -> None:
        self.postures = Postures()
        self.changed: Callable[[], None] = lambda: None
        self._clock = clock
        self._roster = roster
        self._crew = crew
        self._remover = remover
        self._remains: dict[SandboxId, Remains] = {}

    def begin(self, member: Member, cause: str) -> None:
        """Begin the removal of a member. Idempotent."""
        if member.going:
            return
        now, name = self._clock.monotonic(), member.template.name
        member.become(SandboxState.REMOVING)
        row = member.record if member.adoptable else None
        self._roster.states[name] = pool.removing(self._roster.states[name], member.id, now)
        self.postures.end(member.id, now)
        remains = self._remains[member.id] = Remains(member.id, member.link, row, container=member.asked_engine)
        _log.info("sandbox goes", sandbox_id=member.id, template=name, cause=cause)
        self._crew.run(f"remove-{member.id}", lambda: self._remove(member, remains))

    def begin_orphan(self, sandbox_id: SandboxId, uid: int | None, traces: tuple[Leftover, ...] = ()) -> None:
        """Begin the removal of something that no pool knows."""
        _log.warning("sandbox known to nobody goes", sandbox_id=sandbox_id, traces=[each.told for each in traces])
        self._roster.orphans[sandbox_id] = uid
        remains = self._remains[sandbox_id] = Remains(sandbox_id, traces=traces)
        self._crew.run(f"remove-{sandbox_id}", lambda: self._remove_orphan(remains))

    def all(self) -> tuple[Remains, ...]:
        """What is going."""
        return tuple(self._remains.values())

    def problems(self, sandbox_id: SandboxId) -> tuple[str, ...]:
        """What resisted the last attempt at the removal of that sandbox."""
        remains = self._remains.get(sandbox_id)
        return remains.problems if remains is not None else ()

    async def finish(self, seconds: float) -> None:
        """Try everything once more, all at once, at most `seconds`: for the end of the pool, after its crew stopped.
        Those that are kept are only hung up on, and so are those that resist.
        """
        kept = [member for member in self._roster.members.values() if member.kept and not member.going]
        for member in tuple(self._roster.members.values()):
            if member not in kept:
                self.begin(member, "the pool is shut down")
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for remains in self.all():
                    group.create_task(self._finish(remains))
                for member in kept:
                    group.create_task(self._remover.hang_up(member.link))
        except TimeoutError:
            _log.error("removing every sandbox took too long", seconds=seconds)
            await self._hang_up()
        if kept:
            _log.info("kept for the next daemon", sandbox_ids=sorted(member.id for member in kept))
        if self._remains:
            _log.error("left for the next daemon to remove", sandbox_ids=sorted(self._remains))

    async def _hang_up(self) -> None:
        """On those that stay for the next daemon: nobody reads their links any more."""
        with anyio.move_on_after(HANG_UP_SECONDS):
            async with asyncio.TaskGroup() as group:
                for remains in self.all():
                    group.create_task(self._remover.hang_up(remains.link))

    async def _finish(self, remains: Remains) -> None:
        problems = await self._remover.attempt(remains)
        if problems:
            _log.warning("sandbox not removed", sandbox_id=remains.sandbox_id, problems=problems)
            return
        del self._remains[remains.sandbox_id]
        self._roster.orphans.pop(remains.sandbox_id, None)
        member = self._roster.members.get(remains.sandbox_id)
        if member is not None:
            self._roster.drop(member)

    async def _remove(self, member: Member, remains: Remains) -> None:
        def resists() -> None:
            now, name = self._clock.monotonic(), member.template.name
            self._roster.states[name] = pool.quarantined(self._roster.states[name], member.id, now)
            self.changed()

        await self._remover.until_gone(remains, resists)
        del self._remains[member.id]
        self._roster.drop(member)
        self.changed()

    async def _remove_orphan(self, remains: Remains) -> None:
        await self._remover.until_gone(remains, lambda: None)
        del self._remains[remains.sandbox_id]
        del self._roster.orphans[remains.sandbox_id]
