"""A part of the terminal that is drawn again and again, above nothing and below what was printed before.

Each picture is one write: back to its first line, every line over the old one with the rest of the row erased, then
what is left below erased. Nothing is cleared before it is drawn, so nothing flickers. See ECMA-48 for the sequences.
"""

from collections.abc import Sequence
from typing import Final, TextIO

_HIDE: Final = "\x1b[?25l"
_SHOW: Final = "\x1b[?25h"
_ERASE_ROW: Final = "\x1b[K"
_ERASE_BELOW: Final = "\x1b[J"


class Screen:
    """`draw` replaces the picture, `leave` keeps the last one and puts the cursor below it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lines: tuple[str, ...] = ()
        self._widths: tuple[int, ...] = ()
        self._hidden = False
        self._lost = False

    def draw(self, lines: Sequence[str], widths: Sequence[int], columns: int) -> None:
        """Show these lines. `widths` are their columns without styles, `columns` is how wide the terminal is now."""
        if self._lost:
            self._lost, self._hidden = False, False
            self._lines = self._widths = ()
        if tuple(lines) == self._lines:
            return
        body = "".join(f"{line}{_ERASE_ROW}\n" for line in lines)
        self._write(f"{'' if self._hidden else _HIDE}{self._back(columns)}{body}{_ERASE_BELOW}")
        self._hidden = True
        self._lines, self._widths = tuple(lines), tuple(widths)

    def above(self, text: str, columns: int) -> None:
        """Print a line for good; the next picture comes below it."""
        self._write(f"{self._back(columns)}{text}{_ERASE_ROW}\n{_ERASE_BELOW}")
        self._lines = self._widths = ()

    def keep(self) -> None:
        """The picture stays as it is, with the cursor below it; the next one comes below what is printed then."""
        self._lines = self._widths = ()
        self.leave()

    def lose(self) -> None:
        """Others wrote on the terminal: the next picture comes below that. May be called in the middle of `draw`."""
        self._lost = True

    def leave(self) -> None:
        """No more pictures: the cursor is shown again."""
        if self._hidden:
            self._write(_SHOW)
            self._hidden = False

    def _back(self, columns: int) -> str:
        # A terminal that became narrower has broken the old lines: count the rows that they take now.
        rows = sum(max(1, -(-width // max(1, columns))) for width in self._widths)
        return f"\x1b[{rows}F" if rows else ""

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
