"""What commands print: tables and values for people, JSON for programs, errors on standard error.

Human output is cleaned of control characters; JSON is exact.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from perstackctl.terminal import clean, escaped_json, line, width

JSON: Final = "json"
TABLE: Final = "table"
TEXT: Final = "text"


def say(text: str = "") -> None:
    """A clean text to standard output."""
    sys.stdout.write(clean(text) + "\n")


def note(text: str) -> None:
    """A clean sentence to standard error, where it disturbs no pipe."""
    sys.stderr.write(f"perstackctl: {clean(text)}\n")
    sys.stderr.flush()


def document(value: Any) -> None:
    """A value of the client as indented JSON: camelCase keys, times in RFC 3339."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False)
    sys.stdout.write((escaped_json(text) if sys.stdout.isatty() else text) + "\n")


def plain(value: Any) -> Any:
    """The value as JSON knows it. Fields that end in `_at` become RFC 3339 texts, null while not reached."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            camel(field.name): _field(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _field(name: str, value: Any) -> Any:
    return (rfc3339(value) or None) if name.endswith("_at") else plain(value)


def camel(name: str) -> str:
    """snake_case as camelCase."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def rfc3339(milliseconds: int) -> str:
    """A time in UTC with milliseconds; empty for 0."""
    if not milliseconds:
        return ""
    whole, fraction = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:03d}Z"


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> str:
    """Aligned columns with two blanks between them. `right` names headers whose columns hold numbers."""
    cells = [list(headers), *([line(str(cell)) for cell in row] for row in rows)]
    widths = [max(width(row[i]) for row in cells) for i in range(len(headers))]
    flush = [header in right for header in headers]
    return "\n".join(_row(row, widths, flush) for row in cells)


def _row(cells: Sequence[str], widths: Sequence[int], flush: Sequence[bool]) -> str:
    padded = (
        " " * (most - width(cell)) + cell if right else cell + " " * (most - width(cell))
        for cell, most, right in zip(cells, widths, flush, strict=True)
    )
    return "  ".join(padded).rstrip()


def pairs(items: Iterable[tuple[str, object]]) -> str:
    """Names and values, one pair a line, aligned; pairs without a value are left out."""
    shown = [(name, line(str(value))) for name, value in items if value not in {"", None}]
    most = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name + ':':<{most + 1}}  {value}" for name, value in shown)


_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def age(milliseconds: int, now: Callable[[], float] = time.time) -> str:
    """How long ago, in at most two units as kubectl writes it: 42s, 5m12s, 3h, 12d. `-` when not reached."""
    return span(max(0, int(now() * 1000) - milliseconds)) if milliseconds else "-"


def span(milliseconds: int) -> str:
    """A length of time in at most two units; the second is left out once the first says enough."""
    seconds = milliseconds // 1000
    for i, (size, unit) in enumerate(_UNITS):
        if seconds >= size:
            count, rest = divmod(seconds, size)
            if i + 1 < len(_UNITS) and count < 10 and rest >= _UNITS[i + 1][0]:
                smaller, name = _UNITS[i + 1]
                return f"{count}{unit}{rest // smaller}{name}"
            return f"{count}{unit}"
    return "0s"


def elapsed(milliseconds: int) -> str:
    """A short length of time: 12ms, 3.4s, 2m05s, 3h05m, 4d02h."""
    if milliseconds < 1000:
        return f"{max(0, milliseconds)}ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.1f}s"
    minutes, seconds = divmod(milliseconds // 1000, 60)
    if minutes < 60:
        return f"{minutes}m{seconds:02d}s"
    hours = minutes // 60
    return f"{hours}h{minutes % 60:02d}m" if hours < 48 else f"{hours // 24}d{hours % 24:02d}h"


def count(number: int) -> str:
    """A number for narrow places: 950, 1.2k, 3.4M."""
    if number < 1000:
        return str(number)
    return f"{number / 1000:.1f}k" if number < 1_000_000 else f"{number / 1_000_000:.1f}M"
