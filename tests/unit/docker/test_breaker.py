"""The circuit breaker."""

from perstackd.adapters.docker.breaker import Breaker


def opened() -> Breaker:
    breaker = Breaker(threshold=3, cool_down=5.0)
    for _ in range(3):
        assert breaker.admits(10.0)
        breaker.failed(10.0)
    return breaker


def test_it_stays_closed_while_answers_come_between_failures() -> None:
    breaker = Breaker(threshold=2, cool_down=5.0)
    for _ in range(10):
        breaker.failed(1.0)
        breaker.succeeded()
    assert breaker.admits(1.0)
    assert breaker.waits(1.0) == 0


def test_it_opens_after_as_many_failures_in_a_row_as_it_was_told() -> None:
    breaker = opened()
    assert not breaker.admits(10.0)
    assert not breaker.admits(14.9)
    assert breaker.waits(11.0) == 4.0


def test_after_the_pause_one_call_finds_out() -> None:
    breaker = opened()
    assert breaker.admits(15.0)
    assert not breaker.admits(15.0)


def test_an_answer_to_that_call_closes_it() -> None:
    breaker = opened()
    assert breaker.admits(15.0)
    breaker.succeeded()
    assert breaker.admits(15.0)
    assert breaker.admits(15.0)


def test_no_answer_to_that_call_opens_it_again_from_then() -> None:
    breaker = opened()
    assert breaker.admits(15.0)
    breaker.failed(17.0)
    assert not breaker.admits(21.9)
    assert breaker.admits(22.0)


def test_a_caller_who_goes_away_lets_the_next_one_find_out() -> None:
    breaker = opened()
    assert breaker.admits(15.0)
    breaker.abandoned()
    assert breaker.admits(15.0)
