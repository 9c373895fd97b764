"""What is shown of a pool, and what those who wait for it are told. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeAlias

from perstackd.domain.pool import HALT_AFTER, PoolState, Stage
from perstackd.domain.pool_plan import wanted_idle
from perstackd.domain.pool_size import quantile
from perstackd.domain.sandbox import Template


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What is shown of a pool. Durations are milliseconds from the start to verified, of the last 100 starts."""

    template: str
    image: str
    image_id: str
    min_idle: int
    max: int
    starting: int
    idle: int
    claimed: int
    removing: int
    quarantined: int
    waiting: int
    halted: str
    failures: int
    started_total: int
    claimed_total: int
    refill_p50_ms: float
    refill_p99_ms: float
    wanted_idle: int = 0


def status(state: PoolState, template: Template, image_id: str = "") -> PoolStatus:
    """What is shown of the pool."""
    return PoolStatus(
        template=template.name,
        image=template.image,
        image_id=image_id,
        min_idle=template.min_idle,
        max=template.max,
        starting=state.count(Stage.STARTING),
        idle=state.count(Stage.IDLE),
        claimed=state.count(Stage.CLAIMED),
        removing=state.count(Stage.REMOVING),
        quarantined=state.count(Stage.QUARANTINED),
        waiting=len(state.waiting),
        halted=state.halted or state.blocked or (state.failure if state.failures else "") or _no_refill(state),
        failures=state.failures,
        started_total=state.started_total,
        claimed_total=state.claimed_total,
        refill_p50_ms=quantile(state.refill_ms, 0.50),
        refill_p99_ms=quantile(state.refill_ms, 0.99),
        wanted_idle=wanted_idle(state, template),
    )


def _no_refill(state: PoolState) -> str:
    return f"no refill, claims are still served: {state.lacking}" if state.lacking else ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a claim or a group of claims stands: 1 is next; and what it waits for. `party` is WaitingClaim's."""

    party: int
    place: int
    reason: str


class _Hope(IntEnum):
    NOTHING_COMES = 0
    IN_USE = 1
    COMING = 2


_Outlook: TypeAlias = tuple[_Hope, Place]


def places(states: Mapping[str, PoolState], templates: Mapping[str, Template]) -> tuple[Place, ...]:
    """Every group of claims that waits. Of one that waits in several pools: the place in the longest queue, and the
    reason that gives the least hope.
    """
    told: dict[int, _Outlook] = {}
    for name, state in states.items():
        for outlook in _in_pool(state, templates[name]):
            party = outlook[1].party
            told[party] = _worse(told[party], outlook) if party in told else outlook
    return tuple(place for _, place in told.values())


def _worse(one: _Outlook, other: _Outlook) -> _Outlook:
    hope, place = min(one, other, key=lambda outlook: (outlook[0], -outlook[1].place))
    return hope, replace(place, place=max(one[1].place, other[1].place))


def _in_pool(state: PoolState, template: Template) -> Iterator[_Outlook]:
    """Each claim, with the place of its group: what is served at once is one in the queue."""
    nothing = _nothing_comes(state, template)
    coming = max(0, template.max - state.live) + state.count(Stage.STARTING, Stage.IDLE, Stage.REMOVING)
    last = f"; the last start failed: {state.failure}" if state.failures else ""
    soon = f"a sandbox of the template {template.name!r} is being started{last}"
    later = f"all {template.max} sandboxes of the template {template.name!r} are in use"
    place, party = 0, 0
    for at, claim in enumerate(state.waiting, 1):
        place, party = place + (claim.party != party), claim.party
        if nothing:
            yield _Hope.NOTHING_COMES, Place(party, place, nothing)
        elif at > coming:
            yield _Hope.IN_USE, Place(party, place, later)
        else:
            yield _Hope.COMING, Place(party, place, soon)


def _nothing_comes(state: PoolState, template: Template) -> str:
    name = template.name
    if state.blocked:
        return f"the pool {name!r} cannot start sandboxes yet: {state.blocked}"
    if state.halted:
        return f"the pool {name!r} is halted after {HALT_AFTER} or more failed starts in a row: {state.halted}"
    if state.overrun(template):
        return f"the pool {name!r} is halted: {state.count(Stage.QUARANTINED)} sandboxes resist their removal"
    return ""
