"""The warm pool's planner: which sandbox to start, hand out or give up, and when to stop trying.

Pure; `app.warm_pool` acts. A pool is one template's sandboxes. `plan` reads a `PoolState` and returns actions; the
functions beside it return the state after something happened. `now` is seconds of a monotonic clock.

The reserve. A parent keeps its sandbox while its children run, so `max` parents that each wait for a child would
wait for ever. One sandbox per level of depth may therefore be started above `max`, for one job at a time over all
pools: the job that already holds some of the reserve, else the oldest that is stuck. It cannot lock: the holder's
deepest claimed run that waits has children one level deeper, and that level is free because none of the holder's
sandboxes is as deep. The holder must be the same in all pools, or two jobs would each hold what the other needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias

from perstackd.domain.ids import JobId, SandboxId
from perstackd.domain.sandbox import Template

MAX_STARTS: Final = 3  # more at once make an engine slower, not faster (measured)
MAX_DEPTH: Final = 8
HALT_AFTER: Final = 5
MIN_QUARANTINE: Final = 8  # stuck removals that do not yet stop the refill, however small the pool
NO_JOB: Final = JobId("")
YOUNG_SECONDS: Final = 60.0  # a sandbox lost this soon tells of its template; later, of its own fate
CALM_SECONDS: Final = 0.1  # after a claim nothing is started while others are idle: a start would slow the claim's run
CALM_EVERY: Final = 1.0  # seconds between such pauses, so that a steady flow of claims does not hold the refill back
_KEPT_DURATIONS: Final = 100


class Stage(StrEnum):
    """Where a sandbox stands. A quarantined one resists its removal and no longer counts against `max`."""

    STARTING = "starting"
    IDLE = "idle"
    CLAIMED = "claimed"
    REMOVING = "removing"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class Seat:
    """One sandbox. `level` is above 0 when it came from the reserve, for a run of that depth of job `job_id`."""

    sandbox_id: SandboxId
    stage: Stage
    since: float
    level: int = 0
    job_id: JobId = NO_JOB


@dataclass(frozen=True, slots=True)
class WaitingClaim:
    """A run that has no sandbox yet. `id` rises with arrival; `job_created_at` is milliseconds since the epoch."""

    id: int
    job_id: JobId
    depth: int
    job_created_at: int


@dataclass(frozen=True, slots=True)
class PoolState:
    """All that planning depends on. `waiting` is in the order of service.

    `blocked` says why nothing may be started at all (the engine has not answered yet); empty when it may.
    `proven` is set once one sandbox has shown that a workspace can be attached late; before, one is started at a time.
    `failures` are failed starts in a row, `losses` idle sandboxes in a row that did not live to be claimed.
    """

    seats: tuple[Seat, ...] = ()
    waiting: tuple[WaitingClaim, ...] = ()
    blocked: str = ""
    proven: bool = False
    draining: bool = False
    failures: int = 0
    losses: int = 0
    lost_at: float = 0.0
    failure: str = ""
    retry_at: float = 0.0
    halted_until: float = 0.0
    calm_until: float = 0.0
    started_total: int = 0
    claimed_total: int = 0
    refill_ms: tuple[float, ...] = ()

    def count(self, *stages: Stage) -> int:
        """Sandboxes in these stages, the reserve included."""
        return sum(seat.stage in stages for seat in self.seats)

    @property
    def live(self) -> int:
        """Sandboxes that count against `max`: not the reserve, not the quarantined."""
        return sum(seat.level == 0 and seat.stage is not Stage.QUARANTINED for seat in self.seats)

    @property
    def halted(self) -> str:
        """Why refill is stopped, empty when it is not."""
        return self.failure if self.failures >= HALT_AFTER else ""


@dataclass(frozen=True, slots=True)
class Start:
    """Start `count` sandboxes; of the reserve when `level` is above 0, then for `job_id`."""

    count: int
    level: int = 0
    job_id: JobId = NO_JOB


@dataclass(frozen=True, slots=True)
class Hand:
    """Give this sandbox to this claim."""

    claim_id: int
    sandbox_id: SandboxId


@dataclass(frozen=True, slots=True)
class Expire:
    """Remove an idle sandbox that nobody will claim."""

    sandbox_id: SandboxId


@dataclass(frozen=True, slots=True)
class Halt:
    """Refill stops until then, for this reason."""

    reason: str
    until: float


Action: TypeAlias = Start | Hand | Expire | Halt


@dataclass(frozen=True, slots=True)
class Place:
    """Where a waiting claim stands: 1 is next; and what it waits for."""

    claim_id: int
    place: int
    reason: str


# --- what happened --------------------------------------------------------------------------------------------------
def arrived(state: PoolState, claim: WaitingClaim) -> PoolState:
    """A claim came. Children stand before new jobs, each in order of arrival."""
    waiting = sorted((*state.waiting, claim), key=lambda other: (other.depth == 0, other.id))
    return replace(state, waiting=tuple(waiting))


def left(state: PoolState, claim_id: int) -> PoolState:
    """A claim was served or given up."""
    return replace(state, waiting=tuple(claim for claim in state.waiting if claim.id != claim_id))


def launched(state: PoolState, seat: Seat) -> PoolState:
    """A start began."""
    return replace(state, seats=(*state.seats, seat), started_total=state.started_total + 1)


def settled(state: PoolState, sandbox_id: SandboxId, duration_ms: float, now: float) -> PoolState:
    """A start ended well; the sandbox is idle. Failures are forgotten, but not the losses of young idle sandboxes."""
    losses = 0 if now >= state.retry_at + YOUNG_SECONDS else state.losses
    return replace(
        _staged(state, sandbox_id, Stage.IDLE, now),
        proven=True,
        losses=losses,
        failures=losses,
        failure=state.failure if losses else "",
        refill_ms=(*state.refill_ms, duration_ms)[-_KEPT_DURATIONS:],
    )


def failed(state: PoolState, sandbox_id: SandboxId, reason: str, now: float) -> PoolState:
    """A start ended badly; what is left of it is being removed."""
    return _counted(_staged(state, sandbox_id, Stage.REMOVING, now), reason, now)


def lost(state: PoolState, sandbox_id: SandboxId, reason: str, now: float) -> PoolState:
    """An idle sandbox died. Counted once a second: all die with their engine. The first is replaced at once."""
    young = any(seat.sandbox_id == sandbox_id and now - seat.since < YOUNG_SECONDS for seat in state.seats)
    after = _staged(state, sandbox_id, Stage.REMOVING, now)
    if not young or now < state.lost_at + 1.0:
        return after
    counted = _counted(replace(after, losses=state.losses + 1, lost_at=now), reason, now)
    return counted if state.failures else replace(counted, retry_at=now)


def handed(state: PoolState, action: Hand, now: float) -> PoolState:
    """A sandbox went to a claim."""
    after = _staged(left(state, action.claim_id), action.sandbox_id, Stage.CLAIMED, now)
    calm_until = state.calm_until if now < state.calm_until + CALM_EVERY else now + CALM_SECONDS
    return replace(after, claimed_total=state.claimed_total + 1, losses=0, calm_until=calm_until)


def removing(state: PoolState, sandbox_id: SandboxId, now: float) -> PoolState:
    """A removal began."""
    return _staged(state, sandbox_id, Stage.REMOVING, now)


def quarantined(state: PoolState, sandbox_id: SandboxId, now: float) -> PoolState:
    """A removal failed and will be tried again later."""
    return _staged(state, sandbox_id, Stage.QUARANTINED, now)


def removed(state: PoolState, sandbox_id: SandboxId) -> PoolState:
    """Nothing is left of the sandbox."""
    return replace(state, seats=tuple(seat for seat in state.seats if seat.sandbox_id != sandbox_id))


def halted(state: PoolState, action: Halt) -> PoolState:
    """The halt is in force."""
    return replace(state, halted_until=action.until)


def _staged(state: PoolState, sandbox_id: SandboxId, stage: Stage, now: float) -> PoolState:
    seats = (replace(seat, stage=stage, since=now) if seat.sandbox_id == sandbox_id else seat for seat in state.seats)
    return replace(state, seats=tuple(seats))


def _counted(state: PoolState, reason: str, now: float) -> PoolState:
    failures = state.failures + 1
    return replace(state, failures=failures, failure=reason, retry_at=now + pause(failures))


def pause(failures: int) -> float:
    """Seconds before the next start: 0.25, 0.5, 1, 2, then the halts: 5, 10, 20 ... 300."""
    if failures < HALT_AFTER:
        return 0.25 * 2.0 ** (failures - 1)
    return min(300.0, 5.0 * 2.0 ** min(failures - HALT_AFTER, 10))


# --- planning -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Shared:
    """What the pools of one daemon share: the starts that the engine may still be asked for, and the reserve."""

    starts_left: int = MAX_STARTS
    holder: JobId | None = None


def shared(states: Mapping[str, PoolState], templates: Mapping[str, Template], now: float) -> Shared:
    """Look over all pools; both mappings have the same names."""
    starting = sum(state.count(Stage.STARTING) for state in states.values())
    return Shared(MAX_STARTS - starting, _holder(states, templates, now))


def plan(state: PoolState, template: Template, now: float, among: Shared) -> tuple[Action, ...]:
    """What to do now, in this order: hand out, give up, halt, start. Once all is begun, it returns nothing."""
    hands = _hands(state)
    after = state
    for hand in hands:
        after = handed(after, hand, now)
    unwanted = (seat for seat in after.seats if seat.stage is Stage.IDLE and (seat.level or after.draining))
    expiries = tuple(Expire(seat.sandbox_id) for seat in unwanted)
    for expiry in expiries:
        after = removing(after, expiry.sandbox_id, now)
    return (*hands, *expiries, *_halts(after, now), *_starts(after, template, now, among))


def _hands(state: PoolState) -> tuple[Hand, ...]:
    idle = [seat for seat in state.seats if seat.stage is Stage.IDLE]
    hands: list[Hand] = []
    for claim in state.waiting:
        own = (claim.depth, claim.job_id)
        seat = next((seat for seat in idle if seat.level == 0 or (seat.level, seat.job_id) == own), None)
        if seat is not None:
            idle.remove(seat)
            hands.append(Hand(claim.id, seat.sandbox_id))
    return tuple(hands)


def _halts(state: PoolState, now: float) -> tuple[Halt, ...]:
    if state.failures >= HALT_AFTER and now < state.retry_at and state.halted_until < state.retry_at:
        return (Halt(state.failure, state.retry_at),)
    return ()


def _starts(state: PoolState, template: Template, now: float, among: Shared) -> tuple[Start, ...]:
    if now < state.calm_until and not state.waiting and state.count(Stage.IDLE):
        return ()
    room = _room(state, template, now, among)
    short = len(state.waiting) + (0 if state.draining else template.min_idle)
    short = max(short, 0 if state.proven or state.draining else 1) - state.count(Stage.IDLE, Stage.STARTING)
    count = min(room, short, template.max - state.live)
    if count > 0:
        return (Start(count),)
    stuck = (claim for claim in _stuck(state, template) if room > 0 and claim.job_id == among.holder)
    return tuple(Start(1, claim.depth, claim.job_id) for claim in list(stuck)[:1])


def _room(state: PoolState, template: Template, now: float, among: Shared) -> int:
    if state.blocked or now < state.retry_at or _overrun(state, template):
        return 0
    if state.failures or not state.proven:
        return min(among.starts_left, 1 - state.count(Stage.STARTING))
    return among.starts_left


def _overrun(state: PoolState, template: Template) -> bool:
    return state.count(Stage.QUARANTINED) >= max(template.max, MIN_QUARANTINE)


def _stuck(state: PoolState, template: Template) -> tuple[WaitingClaim, ...]:
    """Children that only the reserve can serve: `max` is reached, and nothing is on its way in or out."""
    pending = any(seat.level == 0 and seat.stage in _PASSING for seat in state.seats)
    if pending or state.live < template.max:
        return ()
    taken = {seat.level for seat in state.seats if seat.stage is not Stage.QUARANTINED}
    return tuple(claim for claim in state.waiting if 0 < claim.depth <= MAX_DEPTH and claim.depth not in taken)


_PASSING: Final = frozenset({Stage.STARTING, Stage.IDLE, Stage.REMOVING})


def _holder(states: Mapping[str, PoolState], templates: Mapping[str, Template], now: float) -> JobId | None:
    for state in states.values():
        for seat in state.seats:
            if seat.level and seat.stage is not Stage.QUARANTINED:
                return seat.job_id
    free = Shared()
    stuck = [
        claim
        for name, state in states.items()
        if _room(state, templates[name], now, free) > 0
        for claim in _stuck(state, templates[name])
    ]
    oldest = min(stuck, key=lambda claim: (claim.job_created_at, claim.job_id), default=None)
    return oldest.job_id if oldest else None


def places(state: PoolState, template: Template) -> tuple[Place, ...]:
    """Place and reason of every waiting claim, in order."""
    nothing = _nothing_comes(state, template)
    coming = max(0, template.max - state.live) + state.count(Stage.STARTING, Stage.IDLE, Stage.REMOVING)
    last = f"; the last start failed: {state.failure}" if state.failures else ""
    soon = f"a sandbox of the template {template.name!r} is being started{last}"
    later = f"all {template.max} sandboxes of the template {template.name!r} are in use"
    return tuple(
        Place(claim.id, at, nothing or (soon if at <= coming else later)) for at, claim in enumerate(state.waiting, 1)
    )


def _nothing_comes(state: PoolState, template: Template) -> str:
    name = template.name
    if state.blocked:
        return f"the pool {name!r} cannot start sandboxes yet: {state.blocked}"
    if state.halted:
        return f"the pool {name!r} is halted after {HALT_AFTER} or more failed starts in a row: {state.halted}"
    if _overrun(state, template):
        return f"the pool {name!r} is halted: {state.count(Stage.QUARANTINED)} sandboxes resist their removal"
    return ""
