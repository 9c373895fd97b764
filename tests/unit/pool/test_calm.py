"""The quiet after a claim: its run is not slowed by a start, and claims that do not end do not hold the refill back."""

from dataclasses import replace

from perstackd.domain import pool
from perstackd.domain.ids import SandboxId
from perstackd.domain.pool import Hand, PoolState, Seat, Stage, Start
from tests.unit.pool.test_planner import NOW, planned, seats, template

GAP = 0.01


def claimed(before: PoolState, now: float) -> PoolState:
    idle = next(seat for seat in before.seats if seat.stage is Stage.IDLE)
    return pool.handed(before, Hand(1, idle.sandbox_id), now)


def test_a_steady_flow_of_claims_leaves_most_of_the_time_to_the_refill() -> None:
    plenty = tuple(Seat(SandboxId(f"s{number}"), Stage.IDLE, NOW) for number in range(200))
    state, of, free = PoolState(seats=plenty, proven=True), template(min_idle=300, maximum=400), 0
    for claim in range(100):
        state = claimed(state, NOW + claim * GAP)
        free += bool(planned(state, of, NOW + claim * GAP))
    assert free / 100 >= 0.75


def test_the_quiet_is_of_the_claim_and_a_second_one_in_it_does_not_make_it_longer() -> None:
    state = PoolState(seats=seats(*[Stage.IDLE] * 3), proven=True)
    state = claimed(claimed(state, NOW), NOW + pool.CALM_SECONDS / 2)
    assert planned(state, template(min_idle=3, maximum=5), NOW + pool.CALM_SECONDS * 0.9) == ()
    assert planned(state, template(min_idle=3, maximum=5), NOW + pool.CALM_SECONDS) == (Start(2),)


def test_a_claim_after_a_while_has_its_quiet_again() -> None:
    state = PoolState(seats=seats(*[Stage.IDLE] * 3), proven=True)
    later = NOW + pool.CALM_SECONDS + pool.CALM_EVERY
    state = claimed(claimed(state, NOW), later)
    assert planned(state, template(min_idle=3, maximum=5), later + pool.CALM_SECONDS / 2) == ()
    waited_for = replace(state, seats=tuple(seat for seat in state.seats if seat.stage is not Stage.IDLE))
    assert planned(waited_for, template(min_idle=1, maximum=5), later) == (Start(1),)
