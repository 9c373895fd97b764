from collections.abc import Sequence
from dataclasses import replace

import pytest

from perstackd.domain import pool, pool_status
from perstackd.domain.ids import JobId, SandboxId
from perstackd.domain.pool import Action, Expire, Halt, Hand, PoolState, Seat, Stage, Start, WaitingClaim
from perstackd.domain.pool_plan import plan
from perstackd.domain.pool_status import Place
from perstackd.domain.sandbox import Template

NOW = 1000.0


def template(name: str = "base", min_idle: int = 2, maximum: int = 4) -> Template:
    return Template(name, "perstack/base:latest", min_idle=min_idle, max=maximum)


def seats(*stages: Stage) -> tuple[Seat, ...]:
    return tuple(Seat(SandboxId(f"s{number}"), stage, NOW) for number, stage in enumerate(stages, 1))


def claims(*claims: tuple[str, int]) -> tuple[WaitingClaim, ...]:
    return tuple(WaitingClaim(number, JobId(job), depth, number) for number, (job, depth) in enumerate(claims, 1))


def state(*stages: Stage, waiting: Sequence[tuple[str, int]] = ()) -> PoolState:
    made = PoolState(seats=seats(*stages), proven=True)
    for claim in claims(*waiting):
        made = pool.arrived(made, claim)
    return made


def planned(before: PoolState, of: Template, now: float = NOW) -> tuple[Action, ...]:
    planned = plan({of.name: before}, {of.name: of}, now, (of.name,))
    return tuple(action for _, action in planned)


def told(before: PoolState, of: Template) -> tuple[Place, ...]:
    return pool_status.places({of.name: before}, {of.name: of})


def test_an_empty_pool_is_filled_to_min_idle() -> None:
    assert planned(state(), template(min_idle=2)) == (Start(2),)


def test_at_most_three_starts_are_under_way_over_all_pools() -> None:
    first, second = template("a", 5, 9), template("b", 5, 9)
    states = {"a": state(Stage.STARTING, Stage.STARTING), "b": state()}
    assert plan(states, {"a": first, "b": second}, NOW, "ba") == (("b", Start(1)),)
    assert plan(states, {"a": first, "b": second}, NOW, "ab") == (("a", Start(1)),)


def test_never_more_than_max_are_alive_and_those_being_removed_count() -> None:
    assert planned(state(Stage.CLAIMED, Stage.CLAIMED, Stage.REMOVING), template(min_idle=4, maximum=4)) == (Start(1),)


def test_a_quarantined_sandbox_takes_nobodys_place() -> None:
    assert planned(state(Stage.QUARANTINED, Stage.CLAIMED), template(min_idle=1, maximum=2)) == (Start(1),)


def test_a_few_stuck_removals_do_not_stop_a_small_pool_but_many_do_and_it_says_so() -> None:
    few = state(*[Stage.QUARANTINED] * 7)
    assert planned(few, template(min_idle=1, maximum=2)) == (Start(1),)
    many = state(*[Stage.QUARANTINED] * 8, waiting=[("j", 0)])
    assert planned(many, template(min_idle=1, maximum=2)) == ()
    assert told(many, template(maximum=2))[0].reason.endswith("8 sandboxes resist their removal")


def test_children_are_served_before_new_jobs_and_each_in_order_of_arrival() -> None:
    before = state(Stage.IDLE, Stage.IDLE, Stage.IDLE, waiting=[("a", 0), ("b", 1), ("c", 0), ("d", 2)])
    hands = [action for action in planned(before, template()) if isinstance(action, Hand)]
    assert [hand.claim_id for hand in hands] == [2, 4, 1]
    assert [hand.sandbox_id for hand in hands] == ["s1", "s2", "s3"]


def test_waiting_claims_know_their_place_and_what_they_wait_for() -> None:
    before = state(Stage.CLAIMED, Stage.CLAIMED, waiting=[("a", 0), ("b", 1)])
    places = told(before, template(maximum=2))
    assert [(place.party, place.place) for place in places] == [(2, 1), (1, 2)]
    assert places[0].reason == "all 2 sandboxes of the template 'base' are in use"


def test_only_those_for_whom_one_is_coming_are_told_so() -> None:
    places = told(state(Stage.CLAIMED, Stage.STARTING, waiting=[("a", 0), ("b", 0)]), template(maximum=2))
    assert [place.reason for place in places] == [
        "a sandbox of the template 'base' is being started",
        "all 2 sandboxes of the template 'base' are in use",
    ]


def test_refill_counts_claims_that_wait_on_top_of_min_idle() -> None:
    assert planned(state(waiting=[("a", 0)]), template(min_idle=1)) == (Start(2),)


def test_before_late_binding_is_proven_one_sandbox_is_started_at_a_time_even_without_demand() -> None:
    unproven = PoolState()
    assert planned(unproven, template(min_idle=0)) == (Start(1),)
    assert planned(PoolState(seats=seats(Stage.STARTING)), template(min_idle=3)) == ()


def test_a_blocked_pool_starts_nothing_and_tells_why() -> None:
    blocked = PoolState(blocked="the engine sleeps", waiting=claims(("a", 0)))
    assert planned(blocked, template()) == ()
    assert "the engine sleeps" in told(blocked, template())[0].reason


def failing(times: int, now: float = NOW) -> PoolState:
    failed = state()
    for number in range(times):
        failed = pool.launched(failed, Seat(SandboxId(f"f{number}"), Stage.STARTING, now))
        failed = pool.failed(failed, SandboxId(f"f{number}"), "no such image", now)
        failed = pool.removed(failed, SandboxId(f"f{number}"))
    return failed


def test_after_a_failed_start_one_is_tried_after_a_pause() -> None:
    after = failing(1)
    assert planned(after, template(), NOW + 0.2) == ()
    assert planned(after, template(), NOW + 0.25) == (Start(1),)


def test_five_failures_in_a_row_halt_the_pool_with_the_reason_shown() -> None:
    after = failing(5)
    assert planned(after, template()) == (Halt("no such image", NOW + 5),)
    halted = pool.halted(after, Halt("no such image", NOW + 5))
    assert planned(halted, template()) == ()
    assert pool_status.status(halted, template()).halted == "no such image"
    assert planned(halted, template(), NOW + 5) == (Start(1),)


def test_halts_grow_up_to_five_minutes() -> None:
    assert [pool.pause(failures) for failures in range(1, 9)] == [0.25, 0.5, 1, 2, 5, 10, 20, 40]
    assert pool.pause(99) == 300


def test_four_failures_do_not_halt_and_one_good_start_forgets_them() -> None:
    after = failing(4)
    assert after.halted == ""
    assert pool_status.status(after, template()).halted == after.failure != ""
    after = pool.launched(after, Seat(SandboxId("ok"), Stage.STARTING, NOW))
    after = pool.settled(after, SandboxId("ok"), 250.0, NOW)
    assert (after.failures, after.failure) == (0, "")


def test_sandboxes_that_keep_dying_young_slow_the_refill_down_although_their_starts_succeed() -> None:
    now, after = NOW, state()
    for number in range(5):
        now = max(now + 1.1, after.retry_at)
        seat = Seat(SandboxId(f"y{number}"), Stage.STARTING, now)
        after = pool.settled(pool.launched(after, seat), seat.sandbox_id, 100.0, now)
        after = pool.removed(pool.lost(after, seat.sandbox_id, "the link was lost", now), seat.sandbox_id)
    assert pool_status.status(after, template()).halted == "the link was lost"


def test_an_engine_restart_that_ends_all_idle_sandboxes_counts_once() -> None:
    after = state(*[Stage.IDLE] * 4)
    for seat in after.seats:
        after = pool.lost(after, seat.sandbox_id, "the link was lost", NOW + 1)
    assert after.failures == 1
    assert planned(after, template(), NOW + 1) == ()  # max is 4, and all four are being removed


def test_the_first_idle_sandbox_that_dies_is_replaced_at_once_and_the_second_after_a_pause() -> None:
    first = pool.lost(state(Stage.IDLE, Stage.IDLE), SandboxId("s1"), "the link was lost", NOW + 1)
    assert planned(first, template(), NOW + 1) == (Start(1),)
    second = pool.lost(first, SandboxId("s2"), "the link was lost", NOW + 3)
    assert planned(second, template(), NOW + 3) == ()
    assert planned(second, template(), NOW + 3.5) == (Start(1),)


def test_an_old_idle_sandbox_that_dies_says_nothing_about_its_template() -> None:
    after = pool.lost(state(Stage.IDLE), SandboxId("s1"), "the link was lost", NOW + 61)
    assert (after.failures, after.losses) == (0, 0)


def test_a_claim_ends_a_row_of_losses() -> None:
    after = pool.lost(state(Stage.IDLE, Stage.IDLE), SandboxId("s1"), "the link was lost", NOW)
    assert pool.handed(after, Hand(1, SandboxId("s2")), NOW).losses == 0


def test_a_draining_pool_keeps_nothing_idle_but_serves_children() -> None:
    draining = pool.PoolState(seats=seats(Stage.IDLE, Stage.IDLE), waiting=claims(("a", 1)), proven=True, draining=True)
    assert planned(draining, template()) == (Hand(1, SandboxId("s1")), Expire(SandboxId("s2")))


# --- the reserve ----------------------------------------------------------------------------------------------------
def test_the_reserve_opens_for_the_oldest_stuck_child_only_when_max_is_claimed() -> None:
    full = state(Stage.CLAIMED, Stage.CLAIMED, waiting=[("young", 1), ("new", 0)])
    full = pool.arrived(full, WaitingClaim(9, JobId("old"), 1, 0))
    assert planned(full, template(maximum=2)) == (Start(1, level=1, job_id=JobId("old")),)


@pytest.mark.parametrize("stage", [Stage.STARTING, Stage.REMOVING])
def test_the_reserve_stays_closed_while_a_regular_sandbox_comes_or_goes(stage: Stage) -> None:
    assert planned(state(Stage.CLAIMED, stage, waiting=[("a", 1)]), template(maximum=2)) == ()


def test_the_reserve_is_never_for_a_jobs_first_run() -> None:
    assert planned(state(Stage.CLAIMED, Stage.CLAIMED, waiting=[("a", 0)]), template(maximum=2)) == ()


def test_the_job_that_holds_some_of_the_reserve_keeps_it_though_an_older_one_waits() -> None:
    held = Seat(SandboxId("r"), Stage.CLAIMED, NOW, 1, JobId("holder"))
    full = state(Stage.CLAIMED, waiting=[("older", 1), ("holder", 2)])
    full = PoolState(seats=(*full.seats, held), waiting=full.waiting, proven=True)
    assert planned(full, template(maximum=1)) == (Start(1, level=2, job_id=JobId("holder")),)


def test_one_level_of_the_reserve_holds_one_sandbox() -> None:
    held = Seat(SandboxId("r"), Stage.CLAIMED, NOW, 1, JobId("holder"))
    full = state(Stage.CLAIMED, waiting=[("holder", 1)])
    full = PoolState(seats=(*full.seats, held), waiting=full.waiting, proven=True)
    assert planned(full, template(maximum=1)) == ()


def test_the_holder_is_the_same_for_all_pools() -> None:
    held = Seat(SandboxId("r"), Stage.CLAIMED, NOW, 1, JobId("holder"))
    one, other = template("one", 0, 1), template("other", 0, 1)
    states = {
        "one": PoolState(seats=(*seats(Stage.CLAIMED), held), proven=True),
        "other": state(Stage.CLAIMED, waiting=[("older", 1), ("holder", 2)]),
    }
    planned = plan(states, {"one": one, "other": other}, NOW, states)
    assert planned == (("other", Start(1, level=2, job_id=JobId("holder"))),)


def test_a_reserve_sandbox_whose_claim_was_served_meanwhile_is_given_up() -> None:
    spare = Seat(SandboxId("r"), Stage.IDLE, NOW, 1, JobId("holder"))
    full = PoolState(seats=(*seats(Stage.CLAIMED), spare), waiting=claims(("other", 1)), proven=True)
    assert Expire(SandboxId("r")) in planned(full, template(maximum=1))


def test_status_shows_counts_and_refill_times() -> None:
    shown = state(Stage.IDLE, Stage.CLAIMED, Stage.REMOVING, Stage.QUARANTINED, Stage.STARTING, waiting=[("a", 0)])
    for duration in range(1, 201):
        shown = pool.settled(shown, SandboxId("none"), float(duration), NOW)
    status = pool_status.status(shown, template(), "sha256:x")
    assert (status.idle, status.claimed, status.removing, status.quarantined, status.starting) == (1, 1, 1, 1, 1)
    assert (status.waiting, status.image_id) == (1, "sha256:x")
    assert (status.refill_p50_ms, status.refill_p99_ms) == (151.0, 200.0)


def test_after_a_claim_nothing_is_started_for_a_moment_while_another_sandbox_is_idle() -> None:
    claimed = pool.handed(state(Stage.IDLE, Stage.IDLE), pool.Hand(1, state(Stage.IDLE).seats[0].sandbox_id), NOW)
    calm, after = NOW + pool.CALM_SECONDS / 2, NOW + pool.CALM_SECONDS
    assert planned(claimed, template(min_idle=2), calm) == ()
    assert planned(claimed, template(min_idle=2), after) == (Start(1),)
    nobody_idle = replace(claimed, seats=tuple(seat for seat in claimed.seats if seat.stage is not Stage.IDLE))
    assert planned(nobody_idle, template(min_idle=1), calm) == (Start(1),)
