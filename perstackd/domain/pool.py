"""The warm pools as values: what is known of each, and what it is after something happened. Pure.

A pool is one template's sandboxes. `pool_plan.plan` reads the states of all and returns actions, `app.warm_pool` acts,
and the functions here return the state after it. `now` is seconds of a monotonic clock.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias

from perstackd.domain.ids import JobId, RunId, SandboxId
from perstackd.domain.sandbox import Template

MAX_STARTS: Final = 3  # more at once make an engine slower, not faster (measured)
MAX_DEPTH: Final = 8
HALT_AFTER: Final = 5
MIN_QUARANTINE: Final = 8  # stuck removals that do not yet stop the refill, however small the pool
NO_JOB: Final = JobId("")
NO_RUN: Final = RunId("")
YOUNG_SECONDS: Final = 60.0  # a sandbox lost this soon tells of its template; later, of its own fate
CALM_SECONDS: Final = 0.05  # after a claim nothing is started while others are idle: a start would slow the claim's run
CALM_EVERY: Final = 0.2  # seconds between such pauses, so that a steady flow of claims does not hold the refill back
_KEPT_DURATIONS: Final = 100
_KEPT_CLAIMS: Final = 1000


class Stage(StrEnum):
    """Where a sandbox stands. A quarantined one resists its removal and no longer counts against `max`."""

    STARTING = "starting"
    IDLE = "idle"
    CLAIMED = "claimed"
    REMOVING = "removing"
    QUARANTINED = "quarantined"


Owner: TypeAlias = tuple[int, JobId, RunId]


@dataclass(frozen=True, slots=True)
class Seat:
    """One sandbox. `level` is above 0 when it came from the reserve, for run `run_id` of that depth of job `job_id`."""

    sandbox_id: SandboxId
    stage: Stage
    since: float
    level: int = 0
    job_id: JobId = NO_JOB
    run_id: RunId = NO_RUN

    @property
    def owner(self) -> Owner:
        """Whose it is, when it is of the reserve: to be compared with a claim's."""
        return self.level, self.job_id, self.run_id


@dataclass(frozen=True, slots=True)
class WaitingClaim:
    """A sandbox that a run still waits for. `id` rises with arrival; `job_created_at` is milliseconds since the epoch.

    Claims of one `group`, in any pools, are served all at once or not at all: the group is the id of its first claim,
    0 when there is no other. They are of one run and entered together, so no other claim's id lies between theirs.
    """

    id: int
    job_id: JobId
    depth: int
    job_created_at: int
    run_id: RunId = NO_RUN
    group: int = 0

    @property
    def party(self) -> int:
        """What is served at once: the group, or the claim alone."""
        return self.group or self.id

    @property
    def owner(self) -> Owner:
        """The run, as the seats of the reserve name it."""
        return self.depth, self.job_id, self.run_id


@dataclass(frozen=True, slots=True)
class PoolState:
    """All that planning depends on. `waiting` is in the order of service.

    `blocked` says why nothing may be started at all (the engine has not answered yet); empty when it may.
    `proven` is set once one sandbox has shown that a workspace can be attached late; before, one is started at a time.
    `failures` are failed starts in a row, `losses` idle sandboxes in a row that did not live to be claimed.
    `claimed_at` are the times of the last claims, in order, `idle_target` how many are wanted idle since `target_at`
    (`pool_size`). `lacking` says of what the machine has too little; empty when there is room.
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
    claimed_at: tuple[float, ...] = ()
    idle_target: int = 0
    target_at: float = 0.0
    lacking: str = ""

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

    def overrun(self, template: Template) -> bool:
        """Whether so many sandboxes resist their removal that no more are started."""
        return self.count(Stage.QUARANTINED) >= max(template.max, MIN_QUARANTINE)


@dataclass(frozen=True, slots=True)
class Start:
    """Start `count` sandboxes; of the reserve when `level` is above 0, then for run `run_id` of `job_id`."""

    count: int
    level: int = 0
    job_id: JobId = NO_JOB
    run_id: RunId = NO_RUN


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
    claimed_at = (*state.claimed_at, now)[-_KEPT_CLAIMS:]
    return replace(after, claimed_total=state.claimed_total + 1, losses=0, calm_until=calm_until, claimed_at=claimed_at)


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
