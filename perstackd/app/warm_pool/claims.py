"""A claim from the request to the lease, of one sandbox or of several at once."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from perstackd.app.warm_pool.endings import Endings
from perstackd.app.warm_pool.keeper import Keeper, late_binding_unavailable
from perstackd.app.warm_pool.lease import ClaimRequest, Lease
from perstackd.app.warm_pool.premises import Premises
from perstackd.app.warm_pool.roster import Member
from perstackd.app.warm_pool.waiting import Waiter, Waiting
from perstackd.app.warm_pool.wiring import bounded
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.pool import MAX_DEPTH

_NAMED: Final = 5  # in a message; the rest is counted


class Claims:
    """The warm path: a look at memory, then one durable row, no engine."""

    def __init__(self, premises: Premises, keeper: Keeper, endings: Endings) -> None:
        self._ports = premises.ports
        self._limits = premises.limits
        self._files = premises.files
        self._roster = premises.roster
        self._keeper = keeper
        self._endings = endings

    async def claim_together(self, requests: Sequence[ClaimRequest], waiting: Waiting | None) -> tuple[Lease, ...]:
        """See WarmPool.claim_together."""
        self._admit(requests)
        waiter = self._keeper.desk.enter(requests)
        try:
            self._keeper.advance()
            members = await waiter.outcome(waiting)
            if any(member.going for member in members):
                raise pool_closing()
            return tuple(map(self._bind, members, requests))
        except BaseException:
            self._abandon(waiter)
            raise

    def _admit(self, requests: Sequence[ClaimRequest]) -> None:
        if not requests:
            raise ValueError("a claim of nothing")
        first = requests[0]
        if self._keeper.closed:
            raise pool_closing()
        if not 0 <= first.depth <= MAX_DEPTH:
            message = f"a run of depth {first.depth} gets no sandbox: delegation is at most {MAX_DEPTH} deep"
            raise PerstackError(Kind.PRECONDITION, "delegation_too_deep", message)
        for request in requests:
            self._admit_template(request)
        if len(requests) > 1:
            self._admit_group(requests)
        if first.depth == 0 and len(self._keeper.desk) >= self._limits.max_waiting:
            message = f"{self._limits.max_waiting} claims wait already; try again later or raise the pools' max"
            raise PerstackError(Kind.EXHAUSTED, "pool_queue_full", message, retryable=True)

    def _admit_template(self, request: ClaimRequest) -> None:
        name = request.template
        if name not in self._roster.templates:
            known = ", ".join(sorted(self._roster.templates)) or "none"
            message = f"there is no template {name[:80]!r}; the daemon's configuration has: {known}"
            raise PerstackError(Kind.NOT_FOUND, "template_not_found", message)
        if name in self._keeper.refused:
            raise late_binding_unavailable(name, self._keeper.refused[name])
        if request.depth == 0 and self._roster.states[name].draining:
            raise pool_draining()

    def _admit_group(self, requests: Sequence[ClaimRequest]) -> None:
        """Raises ValueError when they are not of one run: served at once, they would not be what the planner thinks."""
        if len({(each.job_id, each.run_id, each.depth, each.job_created_at) for each in requests}) > 1:
            raise ValueError("claims that are served together are of one run")
        for name, needed in Counter(request.template for request in requests).items():
            if needed > self._roster.templates[name].max:
                roles = [request.role for request in requests if request.template == name]
                raise skills_exceed_pool(name, roles, self._roster.templates[name].max)

    async def confirm(self, lease: Lease) -> None:
        """See WarmPool.confirm."""
        await bounded("writing the claim", self._limits.step_seconds, self._ports.rows.put(lease.record))
        member = self._roster.members.get(lease.record.id)
        if member is not None:
            member.adoptable = False

    def _bind(self, member: Member, request: ClaimRequest) -> Lease:
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
        for member in waiter.members.values():
            self._endings.begin(member, "its claim was given up")
        self._keeper.advance()


def skills_exceed_pool(template: str, roles: Sequence[str], most: int) -> PerstackError:
    """A run that would wait for ever."""
    needed = len(roles)
    named = ", ".join(f"skill {role[:40]!r}" if role else "the expert" for role in roles[:_NAMED])
    more = f" and {needed - _NAMED} more" if needed > _NAMED else ""
    return PerstackError(
        Kind.PRECONDITION,
        "skills_exceed_pool",
        f"the run needs {needed} sandboxes of the template {template!r} at once ({named}{more}), but its pool has at "
        f"most {most}; raise max of this template to {needed} or more in the daemon's configuration",
        fields={"template": template, "needed": str(needed), "max": str(most)},
    )


def pool_closing() -> PerstackError:
    """The daemon goes down."""
    message = "the daemon is shutting down and hands out no sandbox; try again once it is back"
    return PerstackError(Kind.UNAVAILABLE, "pool_closing", message, retryable=True)


def pool_draining() -> PerstackError:
    """The daemon finishes what it has."""
    message = "the pool is being drained and takes no new job; try again later or on another daemon"
    return PerstackError(Kind.UNAVAILABLE, "pool_draining", message, retryable=True)
