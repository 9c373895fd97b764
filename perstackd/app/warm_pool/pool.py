"""The warm pool's face: claim a started, verified sandbox without an engine call, ask about it, give it up."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from types import TracebackType

import anyio
import structlog

from perstackd.app.warm_pool.adoption import Adoption
from perstackd.app.warm_pool.claims import Claims, pool_closing, pool_draining
from perstackd.app.warm_pool.counting import Counting
from perstackd.app.warm_pool.crew import Crew
from perstackd.app.warm_pool.endings import Endings
from perstackd.app.warm_pool.fences import Fences
from perstackd.app.warm_pool.files import SandboxFiles
from perstackd.app.warm_pool.keeper import Keeper
from perstackd.app.warm_pool.lease import ClaimRequest, Lease
from perstackd.app.warm_pool.premises import Premises
from perstackd.app.warm_pool.removal import Remover
from perstackd.app.warm_pool.returning import Returns
from perstackd.app.warm_pool.roster import Roster
from perstackd.app.warm_pool.rounds import UNANSWERED, Rounds
from perstackd.app.warm_pool.starting import Starter
from perstackd.app.warm_pool.waiting import Waiting
from perstackd.app.warm_pool.watermarks import watch
from perstackd.app.warm_pool.wiring import PoolLimits, PoolPorts, bounded
from perstackd.domain.ids import SandboxId
from perstackd.domain.pool import PoolState
from perstackd.domain.pool_status import PoolStatus, status
from perstackd.domain.sandbox import Posture, SandboxRecord, Template
from perstackd.ports.sandboxes import ContainerEnd

_log = structlog.get_logger()


class WarmPool:
    """The pools of one daemon, one per template. An async context manager, entered and left in one task.

    Entering listens for the sandboxes that runs had when an earlier daemon was killed (`returns`), without the engine;
    where there are some it waits for nothing else, since jobs are about to go on in them. Beside that it adopts the
    idle sandboxes of that daemon, once each has proven itself again, and removes everything else that it left:
    containers, rows, directories, mounts. Then it starts sandboxes; where none was adopted it proves late binding with
    the first of each template, which is kept: it saw nothing but the marker. Entering waits for that at most
    `limits.boot_seconds`; while the engine does not answer the pool goes on trying, and claims wait and are told why.

    Leaving, in this order: claims are refused and waiting ones end with `pool_closing`; reconcile, starts and removals
    are stopped; every sandbox but the kept ones is removed, at most `limits.shutdown_seconds` in all; what is left is
    logged, and removed by the next daemon; the threads end. Leases are void from then on.
    """

    def __init__(
        self, ports: PoolPorts, templates: Sequence[Template], runtime: str, limits: PoolLimits | None = None
    ) -> None:
        self._ports = ports
        self._limits = limits = limits or PoolLimits()
        self._files = files = SandboxFiles(runtime)
        self._roster = roster = Roster(
            {template.name: template for template in templates},
            range(limits.uid_first, limits.uid_last + 1),
            {template.name: PoolState(blocked=UNANSWERED) for template in templates},
        )
        self._crew = Crew()
        self._remover = Remover(ports, limits, files)
        self._endings = Endings(ports.clock, roster, self._crew, self._remover)
        starter = Starter(ports, limits, files)
        self._keeper = Keeper(ports, roster, self._crew, starter, self._endings)
        self._premises = Premises(ports, limits, files, roster)
        self._adoption = Adoption(self._premises, starter, self._keeper, self._endings)
        self._claims = Claims(self._premises, self._keeper, self._endings)
        self.returns = Returns(self._premises, starter, self._endings, self._crew)
        self.fences = Fences(self._premises, self.returns)
        self.counting = Counting(self._premises)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "WarmPool":
        rounds = Rounds(self._premises, self._keeper, self._endings, self._adoption, self.returns)
        async with AsyncExitStack() as stack:
            stack.callback(self._files.close)
            await stack.enter_async_context(self._crew)
            stack.push_async_callback(self._shut_down)
            await self.returns.begin()
            self._crew.run("pool-rounds", rounds.go)
            if self._ports.counters is not None:
                self._crew.run("pool-counters", self.counting.go)
            if self._ports.room is not None:
                self._crew.run(
                    "pool-room", partial(watch, self._ports.room, self._ports, self._roster, self._keeper.advance)
                )
            if not self.returns.ids:
                await self._first_ones()
            self._stack = stack.pop_all()
        return self

    async def _first_ones(self) -> None:
        try:
            async with asyncio.timeout(self._limits.boot_seconds):
                await self._keeper.settled.wait()
        except TimeoutError:
            _log.warning("the first sandboxes are not up; going on", seconds=self._limits.boot_seconds)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    async def claim(self, request: ClaimRequest, waiting: Waiting | None = None) -> Lease:
        """A sandbox for one run: `claim_together` of one request."""
        return (await self._claims.claim_together((request,), waiting))[0]

    async def claim_together(
        self, requests: Sequence[ClaimRequest], waiting: Waiting | None = None
    ) -> tuple[Lease, ...]:
        """The sandboxes of one run, all or none, by the order of the requests. Makes no engine call; when not all are
        idle it waits its turn. Nothing of a tenant may enter a sandbox before `confirm` of its lease returned.

        The requests, at least one, have the same job, run, depth and time of the job; they may name a template several
        times. Children go before new jobs, each in order of arrival, and nobody behind takes what this claim found
        while the rest is missing. `waiting(place, reason)` is called in the claimer's task, when the claim has to wait
        and again when either changes: the place in the longest of the queues, the reason with the least hope. A claim
        that is cancelled or fails leaves no sandbox behind. It waits as long as its caller does.

        Raises:
            PerstackError: NOT_FOUND `template_not_found`; PRECONDITION `late_binding_unavailable`,
                `delegation_too_deep`, `skills_exceed_pool` (more of one template than its `max`); EXHAUSTED
                `pool_queue_full`; UNAVAILABLE `pool_draining`, `pool_closing`.
            ValueError: The requests are not of one run, or there is none.
        """
        return await self._claims.claim_together(requests, waiting)

    async def confirm(self, lease: Lease) -> None:
        """Write the claim to the sandbox's row, durable on return. Its own step, so that the claimer can mount the
        workspace and write its own record at the same time: one wait for the disk instead of two.

        Raises:
            PerstackError: UNAVAILABLE `store_unavailable`; TIMEOUT `pool_step_timeout`. The lease is still to be
                released.
        """
        await self._claims.confirm(lease)

    async def release(self, lease: Lease, cause: str) -> None:
        """Give a sandbox up; it is removed in the background and never used again. Idempotent, returns at once."""
        member = self._roster.members.get(lease.record.id)
        if member is not None:
            self._endings.begin(member, cause)
            self._keeper.advance()

    def keep(self, lease: Lease) -> None:
        """Have the sandbox outlive this pool: the next daemon's `returns` gives it back to its run. Idempotent."""
        member = self._roster.members.get(lease.record.id)
        if member is not None:
            member.kept = True

    async def end(self, lease: Lease) -> ContainerEnd:
        """Why the sandbox ended, asked of the engine; to be asked before the release, which removes the container.

        Raises:
            PerstackError: UNAVAILABLE `engine_unavailable`; TIMEOUT `pool_step_timeout` after `limits.end_seconds`.
        """
        call = self._ports.sandboxes.end(lease.record.id)
        return await bounded("asking how the sandbox ended", self._limits.end_seconds, call)

    def status(self) -> tuple[PoolStatus, ...]:
        """Every pool, by the order of the templates."""
        states, image_ids = self._roster.states, self._roster.image_ids
        return tuple(
            status(states[name], template, image_ids.get(name, "")) for name, template in self._roster.templates.items()
        )

    def records(self) -> tuple[SandboxRecord, ...]:
        """Every sandbox that is not gone yet, oldest first."""
        return tuple(sorted((member.record for member in self._roster.members.values()), key=lambda record: record.id))

    def problems(self, sandbox_id: SandboxId) -> tuple[str, ...]:
        """What resists its removal, as the last attempt found; it is tried again."""
        return self._endings.problems(sandbox_id)

    def posture(self, sandbox_id: SandboxId) -> Posture | None:
        """As it was found at the start; kept for ten minutes after the end, and for the last 1,024 ended at most."""
        return self._endings.postures.get(sandbox_id, self._ports.clock.monotonic())

    def late_binding(self) -> tuple[bool, str]:
        """Whether every template has proven that a workspace can be attached late, and else why not (yet)."""
        for name, state in self._roster.states.items():
            if name in self._keeper.refused:
                return False, f"template {name!r}: {self._keeper.refused[name]}"
            if not state.proven:
                why = state.blocked or state.failure or "its first sandbox is being started"
                return False, f"template {name!r} has not been tried yet: {why}"
        return True, ""

    async def drain(self) -> None:
        """From now on no new job gets a sandbox (`pool_draining`), and none is kept idle; children are still served.

        Returns once the removal of idle ones was tried, after `limits.drain_seconds` at most. Idempotent.
        """
        for name, state in self._roster.states.items():
            self._roster.states[name] = replace(state, draining=True)
        self._keeper.desk.refuse(lambda waiter: waiter.depth == 0, pool_draining)
        self._keeper.advance()
        try:
            async with asyncio.timeout(self._limits.drain_seconds):
                await asyncio.gather(*(remains.tried.wait() for remains in self._endings.all()))
        except TimeoutError:
            _log.warning("drained sandboxes are still being removed", seconds=self._limits.drain_seconds)

    async def _shut_down(self) -> None:
        self._keeper.closed = True
        self._keeper.desk.refuse(lambda _: True, pool_closing)
        with anyio.CancelScope(shield=True):  # a daemon that is being cancelled still removes what it started
            await self._crew.stop()
            await self._endings.finish(self._limits.shutdown_seconds)
