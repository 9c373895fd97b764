"""One claim from the request to the lease."""

from dataclasses import replace

from perstackd.app.warm_pool.endings import Endings
from perstackd.app.warm_pool.keeper import Keeper, late_binding_unavailable
from perstackd.app.warm_pool.lease import ClaimRequest, Lease
from perstackd.app.warm_pool.premises import Premises
from perstackd.app.warm_pool.roster import Member
from perstackd.app.warm_pool.waiting import Waiter, Waiting
from perstackd.app.warm_pool.wiring import bounded
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.pool import MAX_DEPTH


class Claims:
    """The warm path: a look at memory, then one durable row, no engine."""

    def __init__(self, premises: Premises, keeper: Keeper, endings: Endings) -> None:
        self._ports = premises.ports
        self._limits = premises.limits
        self._files = premises.files
        self._roster = premises.roster
        self._keeper = keeper
        self._endings = endings

    async def claim(self, request: ClaimRequest, waiting: Waiting | None) -> Lease:
        """See WarmPool.claim."""
        self._admit(request)
        waiter = self._keeper.desk.enter(request)
        try:
            self._keeper.advance()
            member = await waiter.outcome(waiting)
            return self._bind(member, request)
        except BaseException:
            self._abandon(waiter)
            raise

    def _admit(self, request: ClaimRequest) -> None:
        name = request.template
        if self._keeper.closed:
            raise pool_closing()
        if name not in self._roster.templates:
            known = ", ".join(sorted(self._roster.templates)) or "none"
            message = f"there is no template {name[:80]!r}; the daemon's configuration has: {known}"
            raise PerstackError(Kind.NOT_FOUND, "template_not_found", message)
        if not 0 <= request.depth <= MAX_DEPTH:
            message = f"a run of depth {request.depth} gets no sandbox: delegation is at most {MAX_DEPTH} deep"
            raise PerstackError(Kind.PRECONDITION, "delegation_too_deep", message)
        if name in self._keeper.refused:
            raise late_binding_unavailable(name, self._keeper.refused[name])
        if request.depth == 0 and self._roster.states[name].draining:
            raise pool_draining()
        if request.depth == 0 and len(self._keeper.desk) >= self._limits.max_waiting:
            message = f"{self._limits.max_waiting} claims wait already; try again later or raise the pools' max"
            raise PerstackError(Kind.EXHAUSTED, "pool_queue_full", message, retryable=True)

    async def confirm(self, lease: Lease) -> None:
        """See WarmPool.confirm."""
        await bounded("writing the claim", self._limits.step_seconds, self._ports.rows.put(lease.record))
        member = self._roster.members.get(lease.record.id)
        if member is not None:
            member.adoptable = False

    def _bind(self, member: Member, request: ClaimRequest) -> Lease:
        if member.going:
            raise pool_closing()
        member.record = replace(
            member.record,
            tenant=request.tenant,
            job_id=request.job_id,
            run_id=request.run_id,
            fence=request.fence,
            claimed_at=self._ports.clock.now_ms(),
        )
        slot = self._files.of(member.id).directories.slot
        return Lease(member.record, member.template, member.verified.link, member.verified.hello, slot)

    def _abandon(self, waiter: Waiter) -> None:
        """A sandbox that was handed over already is not taken back: its row may name the tenant by now."""
        self._keeper.desk.leave(waiter)
        if waiter.member is not None:
            self._endings.begin(waiter.member, "its claim was given up")
        self._keeper.advance()


def pool_closing() -> PerstackError:
    """The daemon goes down."""
    message = "the daemon is shutting down and hands out no sandbox; try again once it is back"
    return PerstackError(Kind.UNAVAILABLE, "pool_closing", message, retryable=True)


def pool_draining() -> PerstackError:
    """The daemon finishes what it has."""
    message = "the pool is being drained and takes no new job; try again later or on another daemon"
    return PerstackError(Kind.UNAVAILABLE, "pool_draining", message, retryable=True)
