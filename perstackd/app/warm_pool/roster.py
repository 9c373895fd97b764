"""Who is alive: the members of all pools, what each pool's planner knows of them, and which uids are taken."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from perstackd.app.warm_pool.held_link import HeldLink
from perstackd.domain.adoption import found, taken_back
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.pool import PoolState, Seat, Stage, launched, removed
from perstackd.domain.sandbox import Posture, SandboxRecord, SandboxState, Template
from perstackd.domain.session import Hello


@dataclass(frozen=True, slots=True)
class Verified:
    """What a start ends with."""

    link: HeldLink
    hello: Hello
    posture: Posture


@dataclass(slots=True, eq=False)
class Member:
    """One sandbox from its intent row until nothing is left of it.

    `asked_engine`: a container may exist. `link` and `posture` are set as they come, `checked` once all is well.
    `adoptable`: its stored row may say that it is idle and unclaimed, which the next daemon would believe. `kept`: it
    outlives this daemon, for the run that has it.
    """

    record: SandboxRecord
    template: Template
    asked_engine: bool = False
    adoptable: bool = False
    kept: bool = False
    link: HeldLink | None = None
    posture: Posture | None = None
    checked: Verified | None = None
    began: float = 0.0

    @property
    def id(self) -> SandboxId:
        """Its sandbox id."""
        return self.record.id

    @property
    def going(self) -> bool:
        """Whether its removal has begun."""
        return self.record.state is SandboxState.REMOVING

    @property
    def verified(self) -> Verified:
        """What its start ended with; only for those that were idle once."""
        if self.checked is None:
            raise RuntimeError(f"sandbox {self.id} was handed out before its start ended")
        return self.checked

    def become(self, state: SandboxState) -> None:
        """Move its record on, in memory."""
        self.record = replace(self.record, state=state)


@dataclass(slots=True)
class Roster:
    """Only the event loop's thread touches it, and never across an await.

    `orphans` are sandboxes of an earlier daemon, with the uid where a row told it; they belong to no pool.
    """

    templates: Mapping[str, Template]
    uids: range
    states: dict[str, PoolState] = field(default_factory=dict)
    members: dict[SandboxId, Member] = field(default_factory=dict)
    orphans: dict[SandboxId, int | None] = field(default_factory=dict)
    image_ids: dict[str, str] = field(default_factory=dict)

    def add(self, member: Member, seat: Seat) -> None:
        """A sandbox is about to start."""
        name = member.template.name
        self.members[member.id] = member
        self.states[name] = launched(self.states[name], seat)

    def find(self, member: Member, now: float) -> None:
        """A sandbox of an earlier daemon is to be verified again; its uid is taken from now on."""
        name = member.template.name
        self.members[member.id] = member
        self.states[name] = found(self.states[name], member.id, now)

    def take_back(self, member: Member, now: float) -> None:
        """A sandbox of an earlier daemon that a run had; its uid is taken from now on."""
        name = member.template.name
        self.members[member.id] = member
        self.states[name] = taken_back(self.states[name], member.id, now)

    def drop(self, member: Member) -> None:
        """Nothing is left of a sandbox."""
        name = member.template.name
        self.members.pop(member.id, None)
        self.states[name] = removed(self.states[name], member.id)

    def idle(self) -> Iterable[Member]:
        """Members that nobody has claimed."""
        seats = (seat for state in self.states.values() for seat in state.seats if seat.stage is Stage.IDLE)
        return [self.members[seat.sandbox_id] for seat in seats]

    def known(self) -> set[SandboxId]:
        """Ids that somebody looks after."""
        return {*self.members, *self.orphans}

    def used_uids(self) -> set[int]:
        """Those that something alive may have."""
        taken = {member.record.uid for member in self.members.values()}
        taken.update(uid for uid in self.orphans.values() if uid is not None)
        return taken

    def free_uid(self) -> int:
        """The lowest uid that no live sandbox has: user namespaces are cached per uid, so a small set is best.

        A uid is free again only after the engine confirmed that nothing runs under it.

        Raises:
            PerstackError: EXHAUSTED `uids_exhausted`.
        """
        taken = self.used_uids()
        free = next((uid for uid in self.uids if uid not in taken), None)
        if free is None:
            raise PerstackError(
                Kind.EXHAUSTED,
                "uids_exhausted",
                f"all {len(self.uids)} uids of sandboxes are in use; widen sandbox_uids or lower the pools' max",
            )
        return free
