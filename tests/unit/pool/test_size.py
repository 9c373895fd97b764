"""How many sandboxes are kept idle: by the claims that come and the time that a new one takes, within bounds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstackd.domain.adoption import adopted, found
from perstackd.domain.ids import SandboxId
from perstackd.domain.pool import Expire, Hand, PoolState, Seat, Stage, Start, handed
from perstackd.domain.pool_plan import SURPLUS_SECONDS, Planned, plan, wanted_idle
from perstackd.domain.pool_size import QUIET_SECONDS, SHRINK_SECONDS, need, quantile, sized
from perstackd.domain.pool_status import status
from perstackd.domain.sandbox import Template

NOW = 1000.0
TEMPLATE = Template("base", "image", min_idle=2, max=16)


def claimed(*ago: float, refill_ms: float = 1000, **fields: object) -> PoolState:
    at = tuple(sorted(NOW - each for each in ago))
    return PoolState(claimed_at=at, refill_ms=(refill_ms,) * 10, proven=True, **fields)  # type: ignore[arg-type]


def steady(per_second: float, refill_ms: float = 1000) -> PoolState:
    return claimed(*(number / per_second for number in range(int(60 * per_second))), refill_ms=refill_ms)


def idle(count: int, since: float = NOW) -> tuple[Seat, ...]:
    return tuple(Seat(SandboxId(f"s{number}"), Stage.IDLE, since + number / 100) for number in range(count))


def planned(state: PoolState, now: float = NOW) -> tuple[Planned, ...]:
    return plan({"base": state}, {"base": TEMPLATE}, now, ("base",))


@pytest.mark.parametrize(
    ("per_second", "refill_ms", "wanted"),
    [(0, 1000, 2), (1, 1000, 2), (2, 1000, 3), (4, 1000, 6), (4, 250, 2), (4, 2000, 12), (10, 5000, 16)],
)
def test_a_steady_flow_asks_for_what_comes_during_a_refill(per_second: float, refill_ms: float, wanted: int) -> None:
    state = steady(per_second, refill_ms) if per_second else claimed(refill_ms=refill_ms)
    assert need(state, TEMPLATE, NOW) == wanted


def test_a_burst_shows_in_the_short_window_and_is_forgotten_after_it() -> None:
    burst = claimed(*(number / 10 for number in range(40)))
    assert need(burst, TEMPLATE, NOW) == 6
    assert need(burst, TEMPLATE, NOW + 20) == 2


def test_without_a_known_refill_the_least_is_kept() -> None:
    assert need(replace(steady(5), refill_ms=()), TEMPLATE, NOW) == 2


@given(
    st.lists(st.floats(0, 120), max_size=300),
    st.lists(st.floats(1, 60_000), max_size=100),
    st.integers(0, 5),
    st.integers(0, 20),
)
def test_it_is_never_below_the_least_nor_above_the_most(
    ago: list[float], refills: list[float], least: int, more: int
) -> None:
    template = Template("base", "image", min_idle=least, max=max(1, least + more))
    state = replace(claimed(*ago), refill_ms=tuple(refills))
    for step in range(5):
        state = sized(state, template, NOW + step * 40)
        assert template.min_idle <= wanted_idle(state, template) <= template.max


def test_where_none_is_to_be_kept_a_rare_claim_keeps_none_and_a_flow_does() -> None:
    none = replace(TEMPLATE, min_idle=0)
    assert need(claimed(1, refill_ms=300), none, NOW) == 0
    assert need(claimed(1, refill_ms=10_000), none, NOW) == 2
    assert need(steady(2, 300), none, NOW) == 1


def test_every_claim_in_the_window_counts_and_none_at_its_edge() -> None:
    edge = claimed(10.0, 9.9, 5.0, 0.0, refill_ms=10_000)
    assert need(edge, TEMPLATE, NOW) == 5


def test_in_a_drain_none_is_wanted() -> None:
    assert wanted_idle(replace(steady(4), idle_target=6, draining=True), TEMPLATE) == 0


def test_the_proof_of_late_binding_goes_once_something_was_claimed_where_none_is_kept() -> None:
    none = replace(TEMPLATE, min_idle=0)
    state = claimed(seats=idle(1), claimed_total=3)
    later = NOW + SURPLUS_SECONDS + 1
    assert plan({"base": state}, {"base": none}, later, ("base",)) == (("base", Expire(SandboxId("s0"))),)


def test_sandboxes_of_the_reserve_are_no_surplus_and_take_no_idle_ones_place() -> None:
    reserved = replace(idle(1)[0], sandbox_id=SandboxId("r"), level=1)
    state = claimed(seats=(*idle(3), reserved), idle_target=3, claimed_total=3)
    assert planned(state, NOW + SURPLUS_SECONDS + 1) == (("base", Expire(SandboxId("r"))),)


def test_adopted_ones_beyond_the_least_have_a_minute_to_be_claimed_after_a_restart() -> None:
    state = PoolState(proven=True)
    for number in range(6):
        state = adopted(found(state, SandboxId(f"s{number}"), NOW), SandboxId(f"s{number}"), NOW)
    assert planned(sized(state, TEMPLATE, NOW)) == ()
    assert len(planned(state, NOW + SURPLUS_SECONDS)) == 4
    busy = replace(steady(4), seats=state.seats)
    assert planned(sized(busy, TEMPLATE, NOW)) == ()


def test_it_grows_at_once_and_shrinks_one_by_one_after_a_quiet_while() -> None:
    grown = sized(steady(4), TEMPLATE, NOW)
    assert grown.idle_target == 6
    quiet = replace(grown, claimed_at=())
    assert sized(quiet, TEMPLATE, NOW + QUIET_SECONDS - 1).idle_target == 6
    smaller = sized(quiet, TEMPLATE, NOW + QUIET_SECONDS)
    assert smaller.idle_target == 5
    assert sized(smaller, TEMPLATE, NOW + QUIET_SECONDS + SHRINK_SECONDS - 1).idle_target == 5
    assert sized(smaller, TEMPLATE, NOW + QUIET_SECONDS + SHRINK_SECONDS).idle_target == 4


def test_a_flow_that_goes_on_keeps_it_as_it_is() -> None:
    state = sized(steady(4), TEMPLATE, NOW)
    later = replace(state, claimed_at=tuple(at + 100 for at in state.claimed_at))
    assert sized(later, TEMPLATE, NOW + 100).target_at == NOW + 100
    assert sized(replace(later, target_at=NOW + 100, claimed_at=()), TEMPLATE, NOW + 200).idle_target == 6


def test_within_a_second_nothing_is_new() -> None:
    state = sized(steady(4), TEMPLATE, NOW)
    assert sized(state, TEMPLATE, NOW + 0.9) is state


def test_nothing_is_news_while_the_least_is_enough() -> None:
    state = sized(claimed(), TEMPLATE, NOW)
    assert sized(state, TEMPLATE, NOW + 500) is state


def test_the_planner_starts_up_to_the_target() -> None:
    assert planned(claimed(seats=idle(2), idle_target=5)) == (("base", Start(3)),)


def test_what_stands_idle_for_long_above_the_target_goes_oldest_first() -> None:
    state = claimed(seats=idle(5), idle_target=3)
    assert planned(state) == ()
    assert planned(state, NOW + SURPLUS_SECONDS + 1) == (
        ("base", Expire(SandboxId("s0"))),
        ("base", Expire(SandboxId("s1"))),
    )


def test_the_last_idle_one_stays_also_where_none_is_kept() -> None:
    none = replace(TEMPLATE, min_idle=0)
    state = claimed(seats=idle(1))
    assert plan({"base": state}, {"base": none}, NOW + 1000, ("base",)) == ()


def test_at_a_watermark_nothing_is_kept_idle_anew_and_claims_are_served() -> None:
    from tests.unit.pool.test_planner import state as waiting_state

    lacking = claimed(idle_target=5, lacking="only 100 MiB of memory are available")
    assert planned(lacking) == ()
    waiting = replace(waiting_state(waiting=[("a", 0)]), lacking=lacking.lacking)
    assert planned(waiting) == (("base", Start(1)),)
    assert status(lacking, TEMPLATE).halted == (
        "no refill, claims are still served: only 100 MiB of memory are available"
    )


def test_a_hand_is_remembered_with_its_time() -> None:
    state = handed(PoolState(seats=idle(1)), Hand(1, SandboxId("s0")), NOW)
    assert state.claimed_at == (NOW,)


def test_the_status_tells_what_is_wanted() -> None:
    assert status(sized(steady(4), TEMPLATE, NOW), TEMPLATE).wanted_idle == 6
    assert status(PoolState(), TEMPLATE).wanted_idle == 2


def test_a_quantile_of_nothing_is_nothing() -> None:
    assert (quantile((), 0.99), quantile((3, 1, 2), 0.5)) == (0.0, 2)
