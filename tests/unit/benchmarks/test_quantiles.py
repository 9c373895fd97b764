import pytest

from benchmarks.quantiles import median, quantile, spread


def test_a_quantile_is_a_value_that_was_seen() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert median(values) == 3
    assert quantile(values, 0.99) == 5
    assert quantile(values, 0.0) == 1


def test_the_99th_percentile_of_a_hundred_leaves_one_value_above() -> None:
    assert quantile([float(n) for n in range(1, 101)], 0.99) == 99


def test_there_is_no_quantile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        median([])


def test_a_spread_tells_how_many_and_how_far() -> None:
    assert spread([2.0, 1.0]) == {"n": 2, "min": 1.0, "p50": 1.0, "p99": 2.0, "max": 2.0}
