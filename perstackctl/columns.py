"""Tables and paragraphs that fit the terminal: long cells end in an ellipsis, long texts go on in the next line."""

import shutil
from collections.abc import Iterable, Sequence
from typing import Final

from perstackctl.output import table
from perstackctl.terminal import line, width

NARROWEST: Final = 8
_LONGEST_CELL: Final = 200


def terminal_width() -> int:
    """Columns of the terminal, or of COLUMNS; 80 without either."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def fitted(headers: Sequence[str], rows: Iterable[Sequence[object]], *, columns: int = 0) -> str:
    """`output.table` in at most `columns` (the terminal's for 0): the widest column gives way first, none below 8."""
    cells = [[line(str(cell), _LONGEST_CELL) for cell in row] for row in rows]
    widths = [max(width(row[i]) for row in (headers, *cells)) for i in range(len(headers))]
    spare = (columns or terminal_width()) - 2 * (len(headers) - 1)
    while sum(widths) > spare and max(widths) > NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return table(headers, [[cut(cell, most) for cell, most in zip(row, widths, strict=True)] for row in cells])


def cut(text: str, most: int) -> str:
    """The text in at most `most` columns."""
    if width(text) <= most:
        return text
    while width(text) > most - 1:
        text = text[:-1]
    return f"{text}…"


def wrapped(text: str, indent: str = "", first: str | None = None, *, columns: int = 0) -> str:
    """A paragraph in lines of at most `columns`; `first` begins the first one, `indent` the others. A word that is
    longer than a line stays whole."""
    most = columns or terminal_width()
    lines = [indent if first is None else first]
    empty = True
    for word in line(text).split():
        if not empty and width(lines[-1]) + 1 + width(word) > most:
            lines.append(indent)
            empty = True
        lines[-1] += word if empty else f" {word}"
        empty = False
    return "\n".join(lines)
