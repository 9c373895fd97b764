"""Claims that are served all at once or not at all, from several pools."""

from dataclasses import replace

from perstackd.domain import pool
from perstackd.domain.ids import JobId, RunId, SandboxId
from perstackd.domain.pool import Action, Expire, Hand, PoolState, Seat, Stage, Start, WaitingClaim
from perstackd.domain.pool_plan import Planned, plan
from perstackd.domain.pool_status import places
from perstackd.domain.sandbox import Template

NOW = 1000.0
IDLE, CLAIMED, STARTING, REMOVING = Stage.IDLE, Stage.CLAIMED, Stage.STARTING, Stage.REMOVING


class Pools:
    """Pools `a`, `b` ... of which each is as large as it has seats, and the claims that wait for them."""

    def __init__(self, **stages: tuple[Stage, ...]) -> None:
        self.states = {name: PoolState(seats=seats(name, *each), proven=True) for name, each in stages.items()}
        self.templates = {name: Template(name, "image", min_idle=0, max=len(each)) for name, each in stages.items()}
        self.numbers = 0

    def claim(self, needs: str, job: str = "j", depth: int = 0, run: str = "") -> int:
        """One group; returns its first number."""
        first = self.numbers + 1
        for name in needs:
            self.numbers += 1
            group = first if len(needs) > 1 else 0
            claim = WaitingClaim(self.numbers, JobId(job), depth, first, RunId(run or f"r{first}"), group)
            self.states[name] = pool.arrived(self.states[name], claim)
        return first

    def reserve(self, name: str, stage: Stage, job: str, level: int, run: str) -> SandboxId:
        seat = Seat(SandboxId(f"reserve-{run}-{name}"), stage, NOW, level, JobId(job), RunId(run))
        self.states[name] = pool.launched(self.states[name], seat)
        return seat.sandbox_id

    def planned(self, now: float = NOW) -> tuple[Planned, ...]:
        return plan(self.states, self.templates, now, self.states)

    def told(self) -> list[tuple[int, int, str]]:
        return [(place.party, place.place, place.reason) for place in places(self.states, self.templates)]


def seats(name: str, *stages: Stage) -> tuple[Seat, ...]:
    return tuple(Seat(SandboxId(f"{name}{number}"), stage, NOW) for number, stage in enumerate(stages, 1))


def hand(claim_id: int, name: str) -> tuple[str, Action]:
    return name[0], Hand(claim_id, SandboxId(name))


def test_a_group_gets_all_it_needs_at_once_from_several_pools_and_twice_from_one() -> None:
    pools = Pools(a=(IDLE,), b=(IDLE, IDLE))
    pools.claim("abb")
    assert pools.planned() == (hand(1, "a1"), hand(2, "b1"), hand(3, "b2"))


def test_a_group_that_lacks_one_gets_nothing_and_nobody_behind_takes_what_it_found() -> None:
    pools = Pools(a=(IDLE,), b=(CLAIMED,))
    pools.claim("ab")
    pools.claim("a")
    assert pools.planned() == ()


def test_somebody_behind_gets_what_the_group_before_does_not_need() -> None:
    pools = Pools(a=(IDLE, IDLE), b=(CLAIMED,))
    pools.claim("ab")
    behind = pools.claim("a")
    assert pools.planned() == (hand(behind, "a2"),)


def test_a_child_comes_before_a_group_that_waits_longer_for_a_new_job() -> None:
    pools = Pools(a=(IDLE,), b=(CLAIMED,))
    pools.claim("ab")
    child = pools.claim("a", depth=1)
    assert pools.planned() == (hand(child, "a1"),)


def test_of_two_groups_the_one_behind_goes_first_when_it_needs_nothing_of_the_others() -> None:
    pools = Pools(a=(IDLE,), b=(CLAIMED,), c=(IDLE, IDLE))
    pools.claim("ab")
    behind = pools.claim("cc")
    assert pools.planned() == (hand(behind, "c1"), hand(behind + 1, "c2"))


def test_what_is_missing_is_started_in_each_pool() -> None:
    pools = Pools(a=(IDLE, CLAIMED), b=(CLAIMED,))
    pools.templates["b"] = replace(pools.templates["b"], max=3)
    pools.claim("abb")
    assert pools.planned() == (("b", Start(2)),)


def test_a_draining_pool_keeps_what_a_group_of_children_waits_with() -> None:
    pools = Pools(a=(IDLE, IDLE), b=(STARTING,))
    pools.states["a"] = replace(pools.states["a"], draining=True)
    pools.claim("ab", depth=1)
    assert pools.planned() == (("a", Expire(SandboxId("a2"))),)


# --- pools in which nothing comes -----------------------------------------------------------------------------------
def test_a_group_that_waits_for_a_halted_pool_keeps_nothing_from_others() -> None:
    pools = Pools(a=(IDLE,), b=(CLAIMED,))
    pools.states["b"] = replace(pools.states["b"], failures=pool.HALT_AFTER, failure="no image", retry_at=NOW + 5)
    pools.claim("ab")
    behind = pools.claim("a")
    assert hand(behind, "a1") in pools.planned()


def test_but_it_keeps_what_it_has_of_the_reserve_which_is_nobody_elses() -> None:
    pools = Pools(a=(CLAIMED,), b=(CLAIMED,))
    pools.states["b"] = replace(pools.states["b"], blocked="the engine sleeps")
    pools.claim("ab", depth=1, run="r")
    pools.reserve("a", IDLE, "j", 1, "r")
    assert pools.planned() == ()


# --- the reserve ----------------------------------------------------------------------------------------------------
def test_a_child_is_stuck_although_one_is_idle_when_that_is_kept_for_a_group_before_it() -> None:
    """The group waits for b, which the child's parent holds."""
    pools = Pools(a=(IDLE,), b=(CLAIMED,))
    pools.claim("ab", "other", depth=1)
    pools.claim("a", "mine", depth=1, run="child")
    pools.reserve("b", CLAIMED, "mine", 2, "uncle")
    assert pools.planned() == (("a", Start(1, 1, JobId("mine"), RunId("child"))),)


def test_the_reserve_gives_a_run_all_that_it_lacks_in_each_pool() -> None:
    pools = Pools(a=(IDLE, CLAIMED), b=(CLAIMED, CLAIMED))
    pools.claim("aabb", depth=1, run="r")
    run = (1, JobId("j"), RunId("r"))
    assert pools.planned() == (("a", Start(1, *run)), ("b", Start(2, *run)))


def test_what_is_coming_from_the_reserve_is_not_started_again() -> None:
    pools = Pools(a=(CLAIMED, CLAIMED))
    pools.claim("aa", depth=1, run="r")
    pools.reserve("a", STARTING, "j", 1, "r")
    assert pools.planned() == (("a", Start(1, 1, JobId("j"), RunId("r"))),)


def test_what_came_from_the_reserve_is_kept_until_the_rest_is_there_and_then_handed_out() -> None:
    pools = Pools(a=(CLAIMED,), b=(CLAIMED,))
    pools.claim("ab", depth=1, run="r")
    above = pools.reserve("a", IDLE, "j", 1, "r")
    pools.reserve("b", STARTING, "j", 1, "r")
    assert pools.planned() == ()
    rest = pools.states["b"].seats[-1].sandbox_id
    pools.states["b"] = pool.settled(pools.states["b"], rest, 1.0, NOW)
    assert pools.planned() == (("a", Hand(1, above)), ("b", Hand(2, rest)))


def test_a_level_is_one_runs_over_all_pools_at_a_time() -> None:
    pools = Pools(a=(CLAIMED,), b=(CLAIMED,))
    pools.claim("a", depth=1, run="first")
    pools.claim("b", depth=1, run="sibling")
    assert pools.planned() == (("a", Start(1, 1, JobId("j"), RunId("first"))),)
    pools.reserve("a", STARTING, "j", 1, "first")
    assert pools.planned() == ()


def test_a_level_whose_run_is_being_cleared_away_is_not_given_again() -> None:
    pools = Pools(a=(CLAIMED,), b=(CLAIMED,))
    pools.claim("a", depth=1, run="next")
    pools.reserve("b", REMOVING, "j", 1, "last")
    assert pools.planned() == ()


def test_a_sibling_does_not_get_what_was_started_above_max_for_another_run() -> None:
    pools = Pools(a=(CLAIMED,))
    pools.claim("a", depth=1, run="sibling")
    above = pools.reserve("a", IDLE, "j", 1, "cancelled")
    assert pools.planned() == (("a", Expire(above)),)


# --- what they are told ---------------------------------------------------------------------------------------------
def test_a_group_is_one_in_the_queue_and_is_told_the_longest_queue_and_the_least_hope() -> None:
    pools = Pools(a=(STARTING, CLAIMED), b=(CLAIMED,))
    pools.claim("b")
    group = pools.claim("aab")
    assert pools.told()[0] == (group, 2, "all 1 sandboxes of the template 'b' are in use")
    pools.states["a"] = replace(pools.states["a"], blocked="the engine sleeps")
    assert pools.told()[0] == (group, 2, "the pool 'a' cannot start sandboxes yet: the engine sleeps")


def test_several_of_one_template_have_one_place() -> None:
    pools = Pools(a=(CLAIMED, CLAIMED))
    first, second = pools.claim("aa"), pools.claim("aa")
    assert [(party, place) for party, place, _ in pools.told()] == [(first, 1), (second, 2)]
