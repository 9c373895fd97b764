"""Sandboxes that runs had when an earlier daemon was killed: found in the store, listened for, given back to them.

No engine call is made here: rows, sockets and runners are enough, so jobs go on while the engine is away. What nobody
wants, and what does not come back in time, is removed as everything else of that daemon is. Once the engine answers,
each one's posture is read again; one that differs is taken from its run.
"""

import asyncio
from collections.abc import Collection, Sequence

import structlog

from perstackd.app.warm_pool.crew import Crew
from perstackd.app.warm_pool.endings import Endings
from perstackd.app.warm_pool.lease import Lease
from perstackd.app.warm_pool.premises import Premises
from perstackd.app.warm_pool.roster import Member, Verified
from perstackd.app.warm_pool.starting import Starter
from perstackd.app.warm_pool.unforeseen import place_of
from perstackd.app.warm_pool.wiring import bounded
from perstackd.domain.adoption import returnable
from perstackd.domain.errors import PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import SandboxRecord, SandboxState

_log = structlog.get_logger()


class Returns:
    """`begin` before anything else of the pool, then `keep` once; `leases` by the runs; `verify` when the engine is
    there.
    """

    def __init__(self, premises: Premises, starter: Starter, endings: Endings, crew: Crew) -> None:
        self.claimed: tuple[SandboxRecord, ...] = ()
        """Rows of sandboxes that runs had, whether or not they can come back."""
        self._ports = premises.ports
        self._limits = premises.limits
        self._files = premises.files
        self._roster = premises.roster
        self._starter = starter
        self._endings = endings
        self._crew = crew
        self._coming: dict[SandboxId, asyncio.Future[Lease | None]] = {}

    @property
    def ids(self) -> frozenset[SandboxId]:
        """Those that may come back."""
        return frozenset(self._coming)

    async def begin(self) -> None:
        """Take those that may come back into the roster and listen for them. Never raises but for cancellation."""
        try:
            rows = await bounded("listing rows", self._limits.step_seconds, self._ports.rows.all())
        except PerstackError as error:
            _log.error("no sandbox of an earlier daemon can be given back to its run", why=error.message)
            return
        self.claimed = tuple(row for row in rows if row.state is SandboxState.CLAIMED)
        now = self._ports.clock.monotonic()
        for record in returnable(rows, self._roster.templates, self._roster.uids):
            member = Member(record, self._roster.templates[record.template], asked_engine=True, kept=True, began=now)
            self._roster.take_back(member, now)
            self._coming[member.id] = asyncio.get_running_loop().create_future()
            self._crew.run(f"return-{member.id}", lambda member=member: self._come_back(member))  # type: ignore[misc]

    def keep(self, wanted: Collection[SandboxId]) -> None:
        """All others are removed."""
        self.give_up(self.ids.difference(wanted))

    def give_up(self, sandbox_ids: Collection[SandboxId]) -> None:
        """Have them removed, each once it is known whether it came back: until then its sockets are being made."""
        for sandbox_id in self.ids.intersection(sandbox_ids):
            self._crew.run(f"unwanted-{sandbox_id}", lambda each=sandbox_id: self._drop(each))  # type: ignore[misc]

    async def leases(self, sandbox_ids: Sequence[SandboxId]) -> tuple[Lease, ...]:
        """Those of them that came back; waits at most until it is known of each."""
        coming = [future for each in sandbox_ids if (future := self._coming.get(each)) is not None]
        if coming:
            await asyncio.wait(coming)
        return tuple(lease for future in coming if (lease := future.result()) is not None)

    async def verify(self) -> None:
        """Read the postures of those that came back; one that is not as its template asks goes."""
        gate = asyncio.Semaphore(self._limits.adoptions)
        async with asyncio.TaskGroup() as group:
            for sandbox_id in self._coming:
                group.create_task(self._verify(sandbox_id, gate))

    async def _drop(self, sandbox_id: SandboxId) -> None:
        await asyncio.wait({self._coming[sandbox_id]})
        self._end(sandbox_id, "its run does not go on in it")

    async def _come_back(self, member: Member) -> None:
        """From the sockets to the hello of who has the session's token."""
        coming, why = self._coming[member.id], ""
        try:
            link, hello = await self._starter.await_back(member)
        except PerstackError as error:
            why = error.message
        except OSError as error:
            why = f"the host refused: {error}"
        except Exception as error:
            # As in a start: a bug behind a port must not end the pool.
            _log.error("a return failed in an unforeseen way", sandbox_id=member.id, error=place_of(error))
            why = f"unforeseen {type(error).__name__}, see the log"
        else:
            slot = self._files.of(member.id).directories.slot
            coming.set_result(Lease(member.record, member.template, link, hello, slot))
            _log.info("came back", sandbox_id=member.id, job_id=member.record.job_id)
            return
        finally:
            if not coming.done():
                coming.set_result(None)
        _log.warning("did not come back", sandbox_id=member.id, job_id=member.record.job_id, why=why)
        self._end(member.id, "it did not come back")

    async def _verify(self, sandbox_id: SandboxId, gate: asyncio.Semaphore) -> None:
        lease = await self._coming[sandbox_id]
        member = self._roster.members.get(sandbox_id)
        if lease is None or member is None or member.going or member.link is None:
            return
        try:
            async with gate:
                posture = await self._starter.verify(member, lease.hello, occupied=True)
        except PerstackError as error:
            _log.error("a sandbox that came back is not as it should be", sandbox_id=sandbox_id, why=error.message)
            self._end(sandbox_id, "it is not as its template asks")
        else:
            member.checked = Verified(member.link, lease.hello, posture)
            self._endings.postures.put(posture)

    def _end(self, sandbox_id: SandboxId, cause: str) -> None:
        member = self._roster.members.get(sandbox_id)
        if member is not None:
            self._endings.begin(member, cause)
            self._endings.changed()
