import pytest

from perstackctl.columns import cut, fitted, terminal_width, wrapped
from perstackctl.terminal import width


def test_a_table_that_fits_is_left_as_it_is() -> None:
    assert fitted(("A", "B"), [("one", "two")], columns=80).split("\n") == ["A    B", "one  two"]


def test_the_widest_columns_give_way_until_the_table_fits() -> None:
    text = fitted(("KEY", "ABOUT"), [("k", "x" * 500), ("日本" * 30, "short")], columns=60)
    assert max(map(width, text.split("\n"))) <= 60
    assert text.split("\n")[1].startswith("k  ")
    assert text.split("\n")[1].endswith("x…")


def test_columns_never_vanish() -> None:
    lines = fitted(("A", "B", "C"), [("a" * 50, "b" * 50, "c" * 50)], columns=10).split("\n")
    assert lines[1] == "aaaaaaa…  bbbbbbb…  ccccccc…"


@pytest.mark.parametrize(("text", "most", "shown"), [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本語", 5, "日本…")])
def test_a_cell_is_cut_by_what_it_takes_on_the_screen(text: str, most: int, shown: str) -> None:
    assert cut(text, most) == shown


def test_a_paragraph_goes_on_in_the_next_line() -> None:
    assert wrapped("one two three", "    ", "- ", columns=10) == "- one two\n    three"
    assert wrapped("a" * 30 + " b", columns=10) == "a" * 30 + "\nb"
    assert wrapped("a\x1b[31m\nb", columns=10) == "a b"


def test_without_a_terminal_there_are_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.__stdout__", None)
    assert terminal_width() == 80
    monkeypatch.setenv("COLUMNS", "120")
    assert terminal_width() == 120
