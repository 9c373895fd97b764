"""The planner of the warm pools: which sandboxes to hand out, give up and start, and when to stop trying. Pure.

A run claims the sandboxes that it needs as one group, all or none (`pool_allotment`), holds them while its children
run, and gives them back together. Two things could then wait for each other for ever; this is why none does.

Waiting for the rest. Nobody holds a part of a group: what a waiting group keeps is decided anew at each look, in the
order of service, so whoever is first may have all that is idle. It needs no more than `max` of each pool (the claim is
refused otherwise), so without parents that hold something it is served once enough is given back and started.

Parents and children. As many parents as there are sandboxes could each wait for a child. Beside `max` there is
therefore the reserve: for one run per level of depth, over all pools at a time, what its group lacks in each pool; and
for one job at a time, the job that already holds some of it, else the oldest that is stuck. Nothing but that run gets
it. A claim is stuck when `max` is reached, nothing regular is on its way in or out, and it found nothing idle. What is
idle then is kept for groups before it or for its own, and is not waited for: it may be kept for a group that waits for
the very job that is stuck.

It cannot lock. Suppose that nothing is on its way, and every run that has its sandboxes waits for a child.
- No run has any: all sandboxes are idle, and the first group finds what it needs, or more may be started.
- Nobody holds the reserve: the first group in the order of service is a child. It lacks something in a pool, of which
  `max` must be reached, so it is stuck, and the oldest stuck job is given the reserve.
- A job holds it: take the deepest of its runs that has its sandboxes. That run's children are one level deeper, where
  the job has no run with sandboxes, so the level is free, or is its waiting run's that was begun before. A child that
  lacks something lacks it where `max` is reached, so it is stuck and the reserve is started for it, until it has all.
So something always goes on, and each grant lets a run begin that ends: jobs are finite trees, at most MAX_DEPTH deep.
The holder and the owner of a level must be the same in all pools: two runs that each had the half of what both need
would wait for each other. In one pool no more exist than `max` and one group's need for each level.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final, TypeAlias

from perstackd.domain.ids import SandboxId
from perstackd.domain.pool import (
    HALT_AFTER,
    MAX_DEPTH,
    MAX_STARTS,
    Action,
    Expire,
    Halt,
    Owner,
    PoolState,
    Seat,
    Stage,
    Start,
    WaitingClaim,
    handed,
    removing,
)
from perstackd.domain.pool_allotment import Allotment, allot
from perstackd.domain.sandbox import Template

Planned: TypeAlias = tuple[str, Action]
_MOVING: Final = frozenset({Stage.STARTING, Stage.REMOVING})
_UNCLAIMED: Final = frozenset({Stage.STARTING, Stage.IDLE})
SURPLUS_SECONDS: Final = 60.0


def plan(
    states: Mapping[str, PoolState], templates: Mapping[str, Template], now: float, turns: Iterable[str]
) -> tuple[Planned, ...]:
    """What to do now, each with the name of its pool: first all hands, then give up, halt and start.

    `turns` are the names of all pools; the engine takes few starts at once, and the first in turn is served first. The
    hands of a group are all there or none, and are to be carried out without a pause. Once all is begun, it returns
    nothing.
    """
    allotment = allot(states, templates)
    after = dict(states)
    planned: list[Planned] = list(allotment.hands)
    for name, hand in allotment.hands:
        after[name] = handed(after[name], hand, now)
    for name in states:
        for expiry in _expiries(after[name], templates[name], allotment.kept, now):
            after[name] = removing(after[name], expiry.sandbox_id, now)
            planned.append((name, expiry))
    return (*planned, *_refill(after, templates, now, turns, allotment))


def wanted_idle(state: PoolState, template: Template) -> int:
    """How many are kept idle: what the claims of late ask for, at least the template's `min_idle`; none in a drain."""
    return 0 if state.draining else min(template.max, max(template.min_idle, state.idle_target))


def _expiries(state: PoolState, template: Template, kept: Set[SandboxId], now: float) -> list[Expire]:
    idle = [seat for seat in state.seats if seat.stage is Stage.IDLE and seat.sandbox_id not in kept]
    unwanted = [seat for seat in idle if seat.level or state.draining]
    return [Expire(seat.sandbox_id) for seat in (*unwanted, *_surplus(state, template, idle, now))]


def _surplus(state: PoolState, template: Template, idle: Sequence[Seat], now: float) -> list[Seat]:
    """Those that stand idle for long above what is wanted, the oldest first. The one that has proven late binding stays
    until the first claim, also where none is to be kept.
    """
    if state.draining or state.waiting:
        return []
    regular = sorted((seat for seat in idle if not seat.level), key=lambda seat: seat.since)
    count = len(regular) - max(0 if state.claimed_total else 1, wanted_idle(state, template))
    return [seat for seat in regular[: max(0, count)] if now >= seat.since + SURPLUS_SECONDS]


def _refill(
    states: Mapping[str, PoolState],
    templates: Mapping[str, Template],
    now: float,
    turns: Iterable[str],
    allotment: Allotment,
) -> list[Planned]:
    planned: list[Planned] = []
    left = MAX_STARTS - sum(state.count(Stage.STARTING) for state in states.values())
    stuck = _all_stuck(states, templates, now, allotment.unmet)
    entitled = _entitled(states, stuck) if stuck else frozenset()
    for name in turns:
        state, template = states[name], templates[name]
        planned.extend((name, halt) for halt in _halts(state, now))
        room = _room(state, template, now, left)
        start = _start(state, template, now, room) or _reserve(state, stuck.get(name, ()), room, entitled)
        if start is not None:
            planned.append((name, start))
            left -= start.count
    return planned


def _halts(state: PoolState, now: float) -> tuple[Halt, ...]:
    if state.failures >= HALT_AFTER and now < state.retry_at and state.halted_until < state.retry_at:
        return (Halt(state.failure, state.retry_at),)
    return ()


def _start(state: PoolState, template: Template, now: float, room: int) -> Start | None:
    if now < state.calm_until and not state.waiting and state.count(Stage.IDLE):
        return None
    short = len(state.waiting) + (0 if state.lacking else wanted_idle(state, template))
    short = max(short, 0 if state.proven or state.draining else 1) - state.count(Stage.IDLE, Stage.STARTING)
    count = min(room, short, template.max - state.live)
    return Start(count) if count > 0 else None


def _room(state: PoolState, template: Template, now: float, left: int) -> int:
    if state.blocked or now < state.retry_at or state.overrun(template):
        return 0
    if state.failures or not state.proven:
        return min(left, 1 - state.count(Stage.STARTING))
    return left


# --- the reserve ----------------------------------------------------------------------------------------------------
def _reserve(state: PoolState, stuck: Sequence[WaitingClaim], room: int, entitled: Set[Owner]) -> Start | None:
    wanted = [claim.owner for claim in stuck if claim.owner in entitled]
    for owner in dict.fromkeys(wanted):
        coming = sum(seat.stage is Stage.STARTING and seat.owner == owner for seat in state.seats)
        count = min(room, wanted.count(owner) - coming)
        if count > 0:
            return Start(count, *owner)
    return None


def _all_stuck(
    states: Mapping[str, PoolState],
    templates: Mapping[str, Template],
    now: float,
    unmet: Mapping[str, Sequence[WaitingClaim]],
) -> dict[str, list[WaitingClaim]]:
    """Of each pool that could start something but for its `max`, the children that only the reserve can serve."""
    able = (name for name in unmet if _room(states[name], templates[name], now, MAX_STARTS) > 0)
    stuck = ((name, _stuck(states[name], templates[name], unmet[name])) for name in able)
    return {name: claims for name, claims in stuck if claims}


def _stuck(state: PoolState, template: Template, unmet: Iterable[WaitingClaim]) -> list[WaitingClaim]:
    moving = any(seat.level == 0 and seat.stage in _MOVING for seat in state.seats)
    if moving or state.live < template.max:
        return []
    return [claim for claim in unmet if 0 < claim.depth <= MAX_DEPTH]


def _entitled(states: Mapping[str, PoolState], stuck: Mapping[str, Iterable[WaitingClaim]]) -> frozenset[Owner]:
    """The runs of one job, one for each level, for which some of the reserve may be started now."""
    claims = sorted((claim for found in stuck.values() for claim in found), key=lambda claim: claim.id)
    seats = [seat for state in states.values() for seat in state.seats if _reserved(seat)]
    oldest = min(claims, key=lambda claim: (claim.job_created_at, claim.job_id))
    holder = seats[0].job_id if seats else oldest.job_id
    closed = {seat.level for seat in seats if seat.stage not in _UNCLAIMED}
    owners = {seat.level: seat.owner for seat in seats}
    for claim in claims:
        if claim.job_id == holder:
            owners.setdefault(claim.depth, claim.owner)
    return frozenset(owner for level, owner in owners.items() if level not in closed)


def _reserved(seat: Seat) -> bool:
    return seat.level > 0 and seat.stage is not Stage.QUARANTINED
