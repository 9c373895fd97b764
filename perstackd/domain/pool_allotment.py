"""Which idle sandbox goes to which waiting claim, over all pools at once. Pure.

Groups of claims are looked at in the order of service: children before new jobs, each by arrival. A group is served
when every one of its claims finds an idle sandbox. One that is not keeps those that it found, so that nobody behind it
takes them and it is not overtaken for ever. But while it lacks one of a pool in which nothing comes, it keeps only
what is its own by the reserve: a template that does not start must not stop the others.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import TypeAlias

from perstackd.domain.ids import SandboxId
from perstackd.domain.pool import Hand, PoolState, Seat, Stage, WaitingClaim
from perstackd.domain.sandbox import Template

Group: TypeAlias = list[tuple[str, WaitingClaim]]


@dataclass(frozen=True, slots=True)
class Allotment:
    """`hands` name the pool and hold all claims of a group or none. `kept` are idle and wait for a group that is not
    complete. `unmet` are the claims of each pool that found nothing, in the order of service: where there is one, every
    idle sandbox of its pool that is not of the reserve was found by its own group or by one before it.
    """

    hands: tuple[tuple[str, Hand], ...] = ()
    kept: Set[SandboxId] = frozenset()
    unmet: Mapping[str, Sequence[WaitingClaim]] = field(default_factory=dict)


def allot(states: Mapping[str, PoolState], templates: Mapping[str, Template]) -> Allotment:
    """Look over all pools; both mappings have the same names."""
    waiting = {name: state.waiting for name, state in states.items() if state.waiting}
    idle = {name: [seat for seat in states[name].seats if seat.stage is Stage.IDLE] for name in waiting}
    if not any(idle.values()):
        return Allotment(unmet=waiting)
    dead = {name for name in waiting if _nothing_comes(states[name], templates[name])}
    hands: list[tuple[str, Hand]] = []
    kept: set[SandboxId] = set()
    unmet: dict[str, list[WaitingClaim]] = {}
    for group in _queue(waiting):
        found = [(name, claim, _taken(claim, idle[name])) for name, claim in group]
        lacking = [(name, claim) for name, claim, seat in found if seat is None]
        for name, claim in lacking:
            unmet.setdefault(name, []).append(claim)
        hopeless = any(name in dead for name, _ in lacking)
        for name, claim, seat in found:
            if seat is None:
                continue
            if not lacking:
                hands.append((name, Hand(claim.id, seat.sandbox_id)))
            elif seat.level or not hopeless:
                kept.add(seat.sandbox_id)
            else:
                idle[name].append(seat)
    return Allotment(tuple(hands), kept, unmet)


def _nothing_comes(state: PoolState, template: Template) -> bool:
    return bool(state.blocked or state.halted) or state.overrun(template)


def _queue(waiting: Mapping[str, Iterable[WaitingClaim]]) -> list[Group]:
    groups: dict[int, Group] = {}
    for name, claims in waiting.items():
        for claim in claims:
            groups.setdefault(claim.party, []).append((name, claim))
    return sorted(groups.values(), key=lambda group: (group[0][1].depth == 0, group[0][1].party))


def _taken(claim: WaitingClaim, idle: list[Seat]) -> Seat | None:
    """Take one for the claim: of the run's own reserve first, since nobody else may have that."""
    seat = next((seat for seat in idle if seat.level and seat.owner == claim.owner), None)
    seat = seat or next((seat for seat in idle if seat.level == 0), None)
    if seat is not None:
        idle.remove(seat)
    return seat
