"""Reading one table of a definition: each getter returns a usable value or notes what is wrong with it and goes on."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from perstackd.adapters.definition.positions import Path
from perstackd.domain.expert import Severity

MAX_PROBLEMS: Final = 200
MAX_INTEGER: Final = 2**31 - 1
MAX_TEXT: Final = 65_536
MAX_ITEMS: Final = 1024

Near: TypeAlias = "tuple[str, Sequence[str]]"
"""A word, and those that it may have been meant as."""

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


class Problems:
    """What was found so far, by path. Past a bound only their number grows: a hostile file has no end of them."""

    def __init__(self) -> None:
        self.found: list[tuple[Severity, Path, str]] = []
        self.left_out = 0
        self.any_error = False
        self.schema_nodes = 0  # looked at so far; see skills._schema

    def error(self, path: Path, message: str, near: "Near | None" = None) -> None:
        """Something that stops a job."""
        self.any_error = True
        self._add(Severity.ERROR, path, message, near)

    def warning(self, path: Path, message: str, near: "Near | None" = None) -> None:
        """Something that is passed over."""
        self._add(Severity.WARNING, path, message, near)

    def _add(self, severity: Severity, path: Path, message: str, near: "Near | None") -> None:
        """The nearest word is looked for only here, since that costs more than all else."""
        if len(self.found) < MAX_PROBLEMS:
            self.found.append((severity, path, message + (_nearest(*near) if near else "")))
        else:
            self.left_out += 1


class Table:
    """One table at a path. Getters return the default for a key that is absent or wrong."""

    def __init__(self, values: Mapping[str, Any], path: Path, problems: Problems) -> None:
        self.values = values
        self.path = path
        self.problems = problems

    def error(self, key: str, message: str, near: "Near | None" = None) -> None:
        """Note an error at a key of this table; `near` asks for the nearest of some words."""
        self.problems.error((*self.path, key), message, near)

    def warning(self, key: str, message: str, near: "Near | None" = None) -> None:
        """Note a warning at a key of this table."""
        self.problems.warning((*self.path, key), message, near)

    def text(self, key: str, default: str = "", *, limit: int = MAX_TEXT) -> str:
        """A string of at most `limit` characters, without NUL."""
        value = self.values.get(key, default)
        return value if self._is_text(key, value, limit) else default

    def matching(self, key: str, pattern: re.Pattern[str], what: str, default: str = "") -> str:
        """A string that is `what`."""
        value = self.text(key, default)
        if value == default or pattern.fullmatch(value):
            return value
        self.error(key, f"{shown(value)} is not {what}")
        return default

    def one_of(self, key: str, allowed: Sequence[str], default: str) -> str:
        """One of the words."""
        value = self.text(key, default)
        if value == default or value in allowed:
            return value
        self.error(key, f"{shown(value)} is not one of {', '.join(allowed)}", (value, allowed))
        return default

    def integer(self, key: str, default: int, least: int) -> int:
        """A whole number from `least` up."""
        value = self.values.get(key, default)
        if key not in self.values:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self.error(key, f"must be a whole number, not {shown(value) if isinstance(value, float) else kind(value)}")
        elif not least <= value <= MAX_INTEGER:
            self.error(key, f"must be {least} to {MAX_INTEGER}, not {shown(value)}")
        else:
            return value
        return default

    def flag(self, key: str) -> bool:
        """true or false; false by default."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            self.error(key, f"must be true or false, not {kind(value)}")
        return value is True

    def texts(
        self, key: str, *, limit: int = MAX_ITEMS, problem: Callable[[str], str] = lambda _: ""
    ) -> tuple[str, ...]:
        """A set of strings in its order. `problem` says what is wrong with one of them, as the end of a sentence."""
        return tuple(dict.fromkeys(self.words(key, limit=limit, problem=problem)))

    def words(
        self, key: str, *, limit: int = MAX_ITEMS, problem: Callable[[str], str] = lambda _: ""
    ) -> tuple[str, ...]:
        """An array of strings as it is written, repeated ones included."""
        if key not in self.values:
            return ()
        value = self.values[key]
        if not isinstance(value, list):
            self.error(key, f"must be an array of strings, not {kind(value)}")
            return ()
        if len(value) > limit:
            self.error(key, f"has {len(value):,} entries, {limit:,} are allowed")
            return ()
        return tuple(item for index, item in enumerate(value) if self._good_item(key, index, item, problem))

    def table(self, key: str) -> "Table | None":
        """The table below a key; None when it is absent or is none."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.error(key, f"must be a table, not {kind(value)}")
            return None
        return Table(value, (*self.path, key), self.problems)

    def pairs(self, key: str, problem: Callable[[str, str], str]) -> tuple[tuple[str, str], ...]:
        """A table of strings, in its order."""
        table = self.table(key)
        if table is None:
            return ()
        found = []
        for name in table.values:
            value = table.text(name)
            wrong = problem(name, value)
            if wrong:
                table.error(name, f"{shown(name)} {wrong}")
            found.append((name, value))
        return tuple(found)

    def only(self, known: Sequence[str], elsewhere: Mapping[str, str] | None = None) -> None:
        """Warn of every other key: where it belongs, or which known key is nearest."""
        for key in self.values:
            if key not in known:
                place = (elsewhere or {}).get(key)
                said = f"unknown key {shown(key)} is ignored"
                self.warning(key, f"{said}; {place}" if place else said, None if place else (key, known))

    def _is_text(self, key: str, value: object, limit: int) -> bool:
        if not isinstance(value, str):
            self.error(key, f"must be a string, not {kind(value)}")
        elif len(value) > limit:
            self.error(key, f"has {len(value):,} characters, {limit:,} are allowed")
        elif "\0" in value:
            self.error(key, "has a NUL character, which no text needs")
        else:
            return True
        return False

    def _good_item(self, key: str, index: int, item: object, problem: Callable[[str], str]) -> bool:
        if not isinstance(item, str):
            wrong = f"must be a string, not {kind(item)}"
        else:
            why = _text_problem(item) or problem(item)
            wrong = f"{shown(item)} {why}" if why else ""
        if wrong:
            self.problems.error((*self.path, key, index), wrong)
        return not wrong


def _text_problem(text: str) -> str:
    if len(text) > MAX_TEXT:
        return f"has {len(text):,} characters, {MAX_TEXT:,} are allowed"
    return "has a NUL character, which no text needs" if "\0" in text else ""


def dotted(path: Path) -> str:
    """A path as TOML writes it: `experts."@me/coach".skills`, and `[2]` for the third element."""
    parts = ""
    for part in path:
        if isinstance(part, int):
            parts += f"[{part}]"
        else:
            quoted = part if _BARE_KEY.fullmatch(part) else '"' + part.replace('"', '\\"') + '"'
            parts += f".{quoted}" if parts else quoted
    return parts


def shown(value: object) -> str:
    """A value as it can stand in a message: quoted, escaped, short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def kind(value: object) -> str:
    """What a TOML value is, in words."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "a table",
    }
    return names.get(type(value), "a date or time")


def _nearest(word: str, known: Sequence[str]) -> str:
    folded = {_fold(name): name for name in known}
    found = difflib.get_close_matches(_fold(word[:128]), list(folded), n=1)
    return f"; did you mean {str(folded[found[0]])!r}?" if found else ""


def _fold(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")
