"""Sizes that people write and read."""

import pytest

from perstackctl.sizes import size, sized


@pytest.mark.parametrize(
    ("text", "amount"), [("1", 1), ("500M", 500 << 20), ("2g", 2 << 30), ("1 GiB", 1 << 30), ("64kb", 64 << 10)]
)
def test_a_size_is_read(text: str, amount: int) -> None:
    assert size(text) == amount


@pytest.mark.parametrize("text", ["", "0", "-1", "M", "1.5G", "1P", "99999999999999T"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="500M"):
        size(text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 B"), (999, "999 B"), (1023, "1.0 KiB"), (1536, "1.5 KiB"), (4 << 30, "4.0 GiB"), (34 << 20, "34 MiB")],
)
def test_a_size_is_shown_short(amount: int, text: str) -> None:
    assert sized(amount) == text
