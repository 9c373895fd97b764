"""Tables that fit a width: columns that can be shorter are cut, then those that can be missed are left out. Pure."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from perstackctl.output import table
from perstackctl.terminal import line, width

_GAP: Final = 2
_NARROWEST: Final = 40
DEFAULT_WIDTH: Final = 80
WIDE: Final = 10_000
"""Where nothing is cut or left out: a pipe."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `least` is how short its cells may be cut, 0 for not at all; the highest `misses` goes first."""

    header: str
    right: bool = False
    least: int = 0
    misses: int = 0


def columns_of_terminal() -> int:
    """How wide a table may be: COLUMNS, the terminal's width, or 80."""
    return max(_NARROWEST, _columns() or DEFAULT_WIDTH)


def room() -> int:
    """How wide a line may be: COLUMNS or the terminal's width; 0, without bound, into a pipe or a file."""
    return _columns()


def _columns() -> int:
    # Not shutil.get_terminal_size: importing it takes longer than a table.
    said = os.environ.get("COLUMNS", "")
    if said.isdecimal() and int(said):
        return int(said)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):  # not a terminal, or not a file at all
        return 0


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[object]], most: int) -> str:
    """The table in at most `most` columns of the terminal, as far as cutting and leaving out can bring it there."""
    cells = [[line(str(cell)) for cell in row] for row in rows]
    shown = list(range(len(columns)))
    widths = [max([width(c.header), *(width(row[i]) for row in cells)]) for i, c in enumerate(columns)]
    while (over := _total(widths, shown) - most) > 0:
        spare = sum(_spare(columns[i], widths[i]) for i in shown)
        droppable = [i for i in shown if columns[i].misses]
        if spare >= over or not droppable:
            break
        shown.remove(max(droppable, key=lambda i: columns[i].misses))
    _shrink(columns, widths, shown, over)
    cut = [[_cut(row[i], widths[i]) for i in shown] for row in cells]
    right = [columns[i].header for i in shown if columns[i].right]
    return table([columns[i].header for i in shown], cut, right=right)


def _total(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[i] for i in shown) + _GAP * (len(shown) - 1)


def _spare(column: Column, wide: int) -> int:
    return max(0, wide - max(column.least, width(column.header))) if column.least else 0


def _shrink(columns: Sequence[Column], widths: list[int], shown: Sequence[int], over: int) -> None:
    """Take what is too much from the last columns first."""
    for i in reversed(shown):
        taken = min(max(0, over), _spare(columns[i], widths[i]))
        widths[i] -= taken
        over -= taken


def _cut(text: str, most: int) -> str:
    if width(text) <= most:
        return text
    kept = text
    while kept and width(kept) > most - 1:
        kept = kept[:-1]
    return kept + "…"
