"""What every clock promises, held by the fake and the machine's."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from perstackd.adapters.clock import SystemClock
from perstackd.domain.ids import is_id
from perstackd.ports.clock import Clock
from tests.fakes.clock import FakeClock


@pytest.fixture(params=[SystemClock, FakeClock])
def clock(request: pytest.FixtureRequest) -> Clock:
    made: Clock = request.param()
    return made


def test_ids_are_ulids_in_the_order_of_their_making(clock: Clock) -> None:
    made = [clock.new_id() for _ in range(10_000)]
    assert all(is_id(id_) for id_ in made)
    assert made == sorted(set(made))


def test_an_id_carries_the_time_of_its_making(clock: Clock) -> None:
    before = clock.now_ms()
    id_ = clock.new_id()
    after = clock.now_ms()
    digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    milliseconds = 0
    for character in id_[:10]:
        milliseconds = milliseconds * 32 + digits.index(character)
    assert before <= milliseconds <= after


def test_monotonic_time_does_not_go_back(clock: Clock) -> None:
    times = [clock.monotonic() for _ in range(100)]
    assert times == sorted(times)


def test_wall_time_is_of_this_century(clock: Clock) -> None:
    assert 1_700_000_000_000 < clock.now_ms() < 4_100_000_000_000


# --- the machine's clock, when it does what machines do ---------------------------------------------------------------
class Wall:
    """Nanoseconds and random bits as the test sets them."""

    def __init__(self) -> None:
        self.now = 1_750_000_000_000_000_000
        self.bits = 5

    def clock(self) -> SystemClock:
        return SystemClock(lambda: self.now, lambda _: self.bits)


def test_ids_go_up_by_one_within_a_millisecond_and_begin_anew_in_the_next() -> None:
    wall = Wall()
    clock = wall.clock()
    first, second = clock.new_id(), clock.new_id()
    assert (first[-1], second[-1], first[:-1]) == ("5", "6", second[:-1])
    wall.now += 1_000_000
    wall.bits = 1
    assert clock.new_id()[10:] == "1".zfill(16)


def test_ids_do_not_go_back_when_the_wall_clock_does() -> None:
    wall = Wall()
    clock = wall.clock()
    made = [clock.new_id()]
    wall.now -= 3_600_000_000_000
    made += [clock.new_id() for _ in range(5)]
    wall.now += 3_600_001_000_000
    made.append(clock.new_id())
    assert made == sorted(set(made))
    assert {id_[:10] for id_ in made[:6]} == {made[0][:10]}


def test_ids_stay_in_order_when_the_random_part_is_used_up() -> None:
    wall = Wall()
    wall.bits = (1 << 80) - 1
    clock = wall.clock()
    made = [clock.new_id() for _ in range(3)]
    wall.now += 1_000_000
    made.append(clock.new_id())
    assert made == sorted(set(made))
    assert all(is_id(id_) for id_ in made)


def test_ids_are_unique_over_threads() -> None:
    clock = SystemClock()
    with ThreadPoolExecutor(8) as pool:
        made = [id_ for ids in pool.map(lambda _: [clock.new_id() for _ in range(1000)], range(8)) for id_ in ids]
    assert len(set(made)) == 8000


def test_two_processes_do_not_make_the_same_ids() -> None:
    assert SystemClock().new_id()[10:] != SystemClock().new_id()[10:]
