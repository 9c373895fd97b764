"""Claims that wait: each claimer is told the place, and in the end gets its sandboxes or an error."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from perstackd.app.warm_pool.lease import ClaimRequest
from perstackd.app.warm_pool.roster import Member, Roster
from perstackd.domain.errors import PerstackError
from perstackd.domain.pool import WaitingClaim, arrived, left
from perstackd.domain.pool_status import Place, places
from perstackd.domain.sandbox import Template

Waiting = Callable[[int, str], None]


@dataclass(slots=True, eq=False)
class Waiter:
    """The claims of one claimer, each in the queue of its template: one, or a group that is served all at once."""

    claims: tuple[WaitingClaim, ...]
    templates: tuple[str, ...]
    place: Place | None = None
    members: dict[int, Member] = field(default_factory=dict)
    error: PerstackError | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def depth(self) -> int:
        """Of the run that they are for."""
        return self.claims[0].depth

    def tell(self, place: Place) -> None:
        """It still waits, there."""
        if place != self.place:
            self.place = place
            self._news.set()

    def take(self, claim_id: int, member: Member) -> None:
        """One of its claims was served. The others are, before anything is awaited."""
        self.members[claim_id] = member
        self._news.set()

    def refuse(self, error: PerstackError) -> None:
        """It gets nothing."""
        self.error = error
        self._news.set()

    async def outcome(self, waiting: Waiting | None) -> tuple[Member, ...]:
        """The members that it got, by the order of its claims. `waiting` runs here, in the claimer's task: what it
        raises is the claimer's.
        """
        told: Place | None = None
        while not self.members:
            if self.error is not None:
                raise self.error
            if waiting is not None and self.place is not None and self.place != told:
                told = self.place
                waiting(told.place, told.reason)
            await self._news.wait()
            self._news.clear()
        return tuple(self.members[claim.id] for claim in self.claims)


class Desk:
    """The queues of all pools. A claim waits as long as its claimer does: the bound is the job's own."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._waiters: dict[int, Waiter] = {}
        self._numbers = count(1)

    def __len__(self) -> int:
        """Claims that wait, each of a group counted."""
        return len(self._waiters)

    def enter(self, requests: Sequence[ClaimRequest]) -> Waiter:
        """Put claims of one run into their queues, as a group when they are several."""
        first = next(self._numbers)
        ids = (first, *(next(self._numbers) for _ in requests[1:]))
        group = first if len(requests) > 1 else 0
        claims = tuple(
            WaitingClaim(number, each.job_id, each.depth, each.job_created_at, each.run_id, group)
            for number, each in zip(ids, requests, strict=True)
        )
        waiter = Waiter(claims, tuple(request.template for request in requests))
        for claim, template in zip(claims, waiter.templates, strict=True):
            self._waiters[claim.id] = waiter
            self._roster.states[template] = arrived(self._roster.states[template], claim)
        return waiter

    def serve(self, claim_id: int, member: Member) -> None:
        """The planner has handed `member` over; the pool's state knows already."""
        self._waiters.pop(claim_id).take(claim_id, member)

    def leave(self, waiter: Waiter) -> None:
        """Take its claims out. Idempotent."""
        for claim, template in zip(waiter.claims, waiter.templates, strict=True):
            if self._waiters.pop(claim.id, None) is not None:
                self._roster.states[template] = left(self._roster.states[template], claim.id)

    def refuse(self, which: Callable[[Waiter], bool], error: Callable[[], PerstackError]) -> None:
        """End the waiters that `which` picks; each gets an error object of its own."""
        for waiter in [waiter for waiter in dict.fromkeys(self._waiters.values()) if which(waiter)]:
            self.leave(waiter)
            waiter.refuse(error())

    def report(self, templates: Mapping[str, Template]) -> None:
        """Tell everybody who waits the place."""
        if not self._waiters:
            return
        for place in places(self._roster.states, templates):
            self._waiters[place.party].tell(place)
