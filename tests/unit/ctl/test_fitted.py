import pytest

from perstackctl.fitted import Column, fitted
from perstackctl.terminal import width

COLUMNS = (
    Column("ID"),
    Column("EXPERT", least=8),
    Column("STEPS", right=True, misses=2),
    Column("COST", right=True),
    Column("QUERY", least=6, misses=1),
)
ROWS = [("01JD3Z", "fitness-assistant", 3, "$0.0123", "Start today's session with 漢字")]


def test_a_table_with_room_is_whole() -> None:
    assert fitted(COLUMNS, ROWS, 200).split("\n") == [
        "ID      EXPERT             STEPS     COST  QUERY",
        "01JD3Z  fitness-assistant      3  $0.0123  Start today's session with 漢字",
    ]


def test_the_last_columns_are_cut_first() -> None:
    assert fitted(COLUMNS, ROWS, 60).split("\n")[1] == "01JD3Z  fitness-assistant      3  $0.0123  Start today's se…"


def test_what_can_be_missed_goes_when_cutting_is_not_enough() -> None:
    assert fitted(COLUMNS, ROWS, 36).split("\n") == [
        "ID      EXPERT          COST  QUERY",
        "01JD3Z  fitness-as…  $0.0123  Start…",
    ]


@pytest.mark.parametrize("most", range(33, 90))
def test_no_line_is_wider_than_asked_for(most: int) -> None:
    assert all(width(row) <= most for row in fitted(COLUMNS, ROWS, most).split("\n"))
