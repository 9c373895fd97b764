"""Claims that wait: each is told its place, and in the end gets a sandbox or an error."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

from perstackd.app.warm_pool.lease import ClaimRequest
from perstackd.app.warm_pool.roster import Member, Roster
from perstackd.domain.errors import PerstackError
from perstackd.domain.ids import JobId
from perstackd.domain.pool import Place, WaitingClaim, arrived, left, places
from perstackd.domain.sandbox import Template

Waiting = Callable[[int, str], None]


@dataclass(slots=True, eq=False)
class Waiter:
    """One claim in the queue of its template."""

    claim: WaitingClaim
    template: str
    place: Place | None = None
    member: Member | None = None
    error: PerstackError | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, place: Place) -> None:
        """It still waits, there."""
        if place != self.place:
            self.place = place
            self._news.set()

    def settle(self, member: Member | None, error: PerstackError | None = None) -> None:
        """Its end."""
        self.member, self.error = member, error
        self._news.set()

    async def outcome(self, waiting: Waiting | None) -> Member:
        """The member that it got. `waiting` runs here, in the claimer's task: what it raises is the claimer's."""
        told: Place | None = None
        while self.member is None:
            if self.error is not None:
                raise self.error
            if waiting is not None and self.place is not None and self.place != told:
                told = self.place
                waiting(told.place, told.reason)
            await self._news.wait()
            self._news.clear()
        return self.member


class Desk:
    """The queues of all pools. A claim waits as long as its claimer does: the bound is the job's own."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._waiters: dict[int, Waiter] = {}
        self._numbers = count(1)

    def __len__(self) -> int:
        return len(self._waiters)

    def enter(self, request: ClaimRequest) -> Waiter:
        """Put a claim into its queue."""
        claim = WaitingClaim(next(self._numbers), JobId(request.job_id), request.depth, request.job_created_at)
        waiter = self._waiters[claim.id] = Waiter(claim, request.template)
        self._roster.states[request.template] = arrived(self._roster.states[request.template], claim)
        return waiter

    def serve(self, claim_id: int, member: Member) -> None:
        """The planner has handed `member` over; the pool's state knows already."""
        self._waiters.pop(claim_id).settle(member)

    def leave(self, waiter: Waiter) -> None:
        """Take a claim out. Idempotent."""
        if self._waiters.pop(waiter.claim.id, None) is not None:
            self._roster.states[waiter.template] = left(self._roster.states[waiter.template], waiter.claim.id)

    def refuse(self, which: Callable[[Waiter], bool], error: Callable[[], PerstackError]) -> None:
        """End the claims that `which` picks; each gets an error object of its own."""
        for waiter in [waiter for waiter in self._waiters.values() if which(waiter)]:
            self.leave(waiter)
            waiter.settle(None, error())

    def report(self, templates: Mapping[str, Template]) -> None:
        """Tell every waiting claim its place."""
        if not self._waiters:
            return
        for name, template in templates.items():
            for place in places(self._roster.states[name], template):
                self._waiters[place.claim_id].tell(place)
