import pytest

from perstackctl.amounts import dollars, microdollars, milliseconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90_000), ("90s", 90_000), ("10m", 600_000), ("2h", 7_200_000), ("1h30m", 5_400_000), ("1d", 86_400_000)],
)
def test_lengths_of_time_are_read_as_people_write_them(text: str, expected: int) -> None:
    assert milliseconds(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0s", "-5", "1.5h", "10 m", "10x", "m", "30m1h", "9" * 30, "\u0661m"])
def test_other_lengths_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a length of time"):
        milliseconds(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.50", 500_000), ("$0.1", 100_000), ("2", 2_000_000), (".000001", 1), ("0.29", 290_000), ("1.005", 1_005_000)],
)
def test_money_is_exact(text: str, expected: int) -> None:
    assert microdollars(text) == expected


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1e3", "NaN", "inf", "1,50", "0.0000001", "€1", "1." + "0" * 60, "9" * 20]
)
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an amount of US dollars|finer than a millionth"):
        microdollars(text)


@pytest.mark.parametrize(
    ("micro", "expected"),
    [(0, "$0.0000"), (1, "<$0.0001"), (12_300, "$0.0123"), (1_500_000, "$1.5000"), (1_234_560_000, "$1,234.56")],
)
def test_costs_are_short(micro: int, expected: str) -> None:
    assert dollars(micro) == expected
