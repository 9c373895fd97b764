"""What counters prove about the end of a sandbox, and what they do not."""

import pytest

from perstackd.domain.counters import Counters, Look, looked, proven, risen, told

RAN, KILLED = Counters(), Counters(oom_kills=1)
OVER = Counters(oom_kills=1, ended=True)


def after(*looks: tuple[float, Counters]) -> Counters:
    seen: tuple[Look, ...] = ()
    for at, counters in looks:
        seen = looked(seen, Look(at, counters))
    return risen(seen)


def test_a_kill_between_the_last_looks_and_the_end_is_the_cause() -> None:
    recent = after((0, RAN), (1, RAN), (2, OVER))
    assert proven("unknown", 0, recent) == "oomKilled"
    assert proven("lost", 0, recent) == "oomKilled"
    assert proven("exited", 137, recent) == "oomKilled"
    assert told(recent) == "in its last seconds the kernel counted 1 programs ended for want of memory"


def test_however_late_somebody_asks_what_counts_is_what_rose_before_the_end() -> None:
    recent = after((0, RAN), (1, OVER), *((float(at), OVER) for at in range(2, 60)))
    assert proven("unknown", 0, recent) == "oomKilled"


def test_a_kill_that_the_sandbox_outlived_proves_nothing() -> None:
    recent = after((0, RAN), (1, KILLED), (2, KILLED), (3, KILLED), (4, KILLED), (5, OVER))
    assert proven("unknown", 0, recent) == "unknown"
    assert told(recent) == ""


def test_a_sandbox_that_still_runs_or_was_seen_once_proves_nothing() -> None:
    assert proven("unknown", 0, after((0, RAN), (1, KILLED))) == "unknown"
    assert proven("unknown", 0, after((7, OVER))) == "unknown"
    assert proven("unknown", 0, risen(())) == "unknown"


@pytest.mark.parametrize(("cause", "code"), [("exited", 1), ("exited", 0), ("linkLost", 0), ("oomKilled", 137)])
def test_where_the_engine_has_said_it_its_word_stands(cause: str, code: int) -> None:
    assert proven(cause, code, after((0, RAN), (1, OVER))) == cause


def test_limits_that_end_nothing_by_themselves_are_told_and_no_cause() -> None:
    recent = after((0, RAN), (1, Counters(0, 12, 4, ended=True)))
    assert proven("lost", 0, recent) == "lost"
    assert told(recent).endswith("12 times its memory limit was reached, 4 new processes refused by its limit")


def test_only_looks_that_a_question_can_be_about_are_kept() -> None:
    seen: tuple[Look, ...] = ()
    for at in range(1000):
        seen = looked(seen, Look(float(at), RAN))
    assert [look.at for look in seen] == [996.0, 997.0, 998.0, 999.0]
