"""A run's stay in one set of sandboxes: each is told whose it is, then listened to until the stay is over."""

from collections.abc import Awaitable, Callable

import anyio
from anyio.abc import TaskGroup

from perstackd.app.run_inbox import Heard, Item, Overdue, RunInbox, Settled
from perstackd.app.run_member import RunMember
from perstackd.app.run_opening import Opening
from perstackd.app.run_party import RunParty
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.runner_versions import missing
from perstackd.domain.session import Assign, Finish


class Stay:
    """`begin` in sandboxes that were just claimed, `go_on` in those of before a restart. Its tasks are the group's.

    `open`: the run has begun in it, or gone on. `lost`: one of them is, so the run goes on elsewhere. `parked`: only
    people are waited for, so they are given up.
    """

    def __init__(self, party: RunParty, opening: Opening, inbox: RunInbox) -> None:
        self.party = party
        self.open = False
        self.lost = False
        self.parked = False
        self._opening = opening
        self._inbox = inbox
        self._noted = anyio.Event()

    @property
    def over(self) -> bool:
        """Whether the run leaves, though it has not ended."""
        return self.lost or self.parked

    def begin(self, tasks: TaskGroup, step: int, *, admit: bool) -> None:
        """Move in, at the run's `step`; with `admit` the job is admitted."""
        tasks.start_soon(self._announce, step, admit)
        for member in self.party.members.values():
            tasks.start_soon(self._settle, member)

    def go_on(self, tasks: TaskGroup) -> None:
        """Remind each of whose it is: one that died with the order on its way would wait for it for ever."""
        for member in self.party.members.values():
            tasks.start_soon(self._remind, member)

    @property
    def late(self) -> RunMember:
        """Whose time is up first."""
        return min(self.party.members.values(), key=lambda member: member.deadline)

    async def next(self, flush: Callable[[], Awaitable[None]]) -> Item:
        """What comes next, be it that a sandbox lets its time pass. `flush` is called before a wait."""
        if self._inbox.empty:
            await anyio.lowlevel.checkpoint()  # what was sent together is read together
        if self._inbox.empty:
            await flush()
        late = self.late
        with anyio.CancelScope(deadline=late.deadline):
            return await self._inbox.next()
        late.silent = True
        return Overdue(late)

    async def finish(self, reason: str) -> None:
        """Tell those that can hear it that it is over."""
        for member in self.party.members.values():
            if member.lost is None and member.settled:
                await member.order(Finish(reason))

    async def _announce(self, step: int, admit: bool) -> None:  # noqa: FBT001 - of a task
        await self.party.note_assignment(step, admit=admit)
        self._noted.set()

    async def _settle(self, member: RunMember) -> None:
        """Each sandbox by itself: the first turn need not wait for a skill whose tools are known."""
        await self.party.move_in(member)
        await self._noted.wait()
        await member.order(self._fit(member, self._opening.assign(member, self.party.step, self.party.env)))
        await self._inbox.put(Settled())
        await self._listen(member)

    def _fit(self, member: RunMember, assign: Assign) -> Assign:
        """The assignment, if the runner can keep to all of it. Raises PerstackError PRECONDITION `runner_protocol`."""
        version = member.lease.hello.protocol_version
        if lacks := missing(version, assign):
            message = f"{member.name} has a runner of protocol {version}, which has no {lacks}: make images"
            raise PerstackError(Kind.PRECONDITION, "runner_protocol", message)
        return assign

    async def _remind(self, member: RunMember) -> None:
        await member.remind(self._opening.assign(member, member.session.step, self.party.env))
        await self._inbox.put(Settled())
        await self._listen(member)

    async def _listen(self, member: RunMember) -> None:
        link = member.lease.link
        async for ask in link.asks():
            await self._inbox.put(Heard(member, ask, link.position))
