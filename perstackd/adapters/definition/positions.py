"""Where the keys of a TOML text stand: the standard library's parser tells values only.

A scanner, not a parser: it takes the grammar for granted (https://toml.io/en/v1.0.0), and where a text breaks it,
stops without a word; tomllib then says what is wrong. It runs first all the same, since tomllib needs the square of a
key's depth and more: 20,000 dots cost it half a minute.
"""

import contextlib
import re
import sys
from bisect import bisect_right
from typing import Final, TypeAlias

Path: TypeAlias = "tuple[str | int, ...]"

MAX_DEPTH: Final = 32
"""Of tables, arrays and dotted keys together; a definition needs 8."""

# Possessive throughout: no text makes them go back.
_SPACE: Final = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_BLANK: Final = re.compile(r"[ \t]*+")
_BLOCK: Final = r'"""(?:[^"\\]++|\\.|"(?!""))*+"{3,5}' r"|'''(?:[^']++|'(?!''))*+'{3,5}"
_STRING: Final = re.compile(_BLOCK + r'|"(?:[^"\\\n]++|\\.)*+"' r"|'[^'\n]*+'", re.DOTALL)
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN_VALUE: Final = re.compile(r"[^,\]}\n#]*")
# What most lines are, in one step: a bare key and a string, a word or number, or an array of plain strings.
_PLAIN: Final = r'"[^"\\\n]*+"(?!")'
_PLAIN_ARRAY: Final = rf"\[[ \t\n]*+(?:{_PLAIN}[ \t\n]*+(?:,[ \t\n]*+|(?=\])))*+\]"
_COMMON_PAIR: Final = re.compile(
    rf"([A-Za-z0-9_-]++)[ \t]*+=[ \t]*+(?:{_BLOCK}|{_PLAIN}|[A-Za-z0-9_.+-]++|({_PLAIN_ARRAY}))"
    r"[ \t]*+(?:#[^\n]*+)?+\n[ \t\r\n]*+",
    re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)", re.DOTALL)
_ESCAPES: Final = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


class _NotTomlError(Exception):
    """The scanner cannot go on."""


class TooDeepError(Exception):
    """Keys, tables or arrays are nested deeper than `MAX_DEPTH`; `offset` is where."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"nested deeper than {MAX_DEPTH} at offset {offset}")
        self.offset = offset


class Positions:
    """The places of all keys and array elements of one text, up to where it is no TOML any more.

    Raises:
        TooDeepError: from the constructor, for a text that should not be given to a parser.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._offsets: dict[Path, int] = {}
        self._unopened: dict[Path, int] = {}
        self._headers: dict[Path, int] = {}
        self.repeated: tuple[Path, int, int] | None = None
        """The first key or table that is there twice, which no TOML allows: its path, first and second offset."""
        self._array_tables: dict[Path, int] = {}
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]
        with contextlib.suppress(_NotTomlError, IndexError):  # where the text ends early or breaks the grammar
            self._scan()

    def place(self, path: Path) -> tuple[int, int]:
        """Line and column, from 1, of a path or of the nearest parent that has a place; (0, 0) without one."""
        for length in range(len(path), 0, -1):
            self._open(path[: length - 1])
            offset = self._offsets.get(path[:length])
            if offset is not None:
                return self.place_of(offset)
        return 0, 0

    def place_of(self, offset: int) -> tuple[int, int]:
        """Line and column, from 1, of an offset."""
        line = bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def _once(self, places: dict[Path, int], path: Path, offset: int) -> None:
        first = places.setdefault(path, offset)
        if first != offset and self.repeated is None:
            self.repeated = (path, first, offset)

    def _scan(self) -> None:
        table: Path = ()
        self._skip(_SPACE)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            elif len(table) + 2 > MAX_DEPTH or not self._common_pair(table):
                self._pair(table)
            self._skip(_SPACE)

    def _common_pair(self, table: Path) -> bool:
        """Most pairs, quickly; a plain array is looked into when one of its elements is asked for."""
        found = _COMMON_PAIR.match(self._text, self._at)
        if found is None:
            return False
        path = (*table, found.group(1))
        self._once(self._offsets, path, self._at)
        if found.group(2) is not None:
            self._unopened[path] = found.start(2)
        self._at = found.end()
        return True

    def _open(self, path: Path) -> None:
        start = self._unopened.pop(path, None)
        if start is not None:
            self._at = start
            self._array(path)

    def _header(self) -> Path:
        """`[a.b]` or `[[a.b]]`; a table of an array has its number in its path."""
        brackets = 2 if self._text.startswith("[[", self._at) else 1
        self._at += brackets
        path: Path = ()
        offset = self._at
        for name, offset in self._key():
            path = (*path, name)
            self._offsets.setdefault(path, offset)
            last = self._array_tables.get(path)
            if last is not None:
                path = (*path, last)
        self._at += brackets
        if brackets == 1:
            self._once(self._headers, path, offset)
            return path
        bare = path[:-1] if isinstance(path[-1], int) else path
        self._array_tables[bare] = self._array_tables.get(bare, -1) + 1
        return (*bare, self._array_tables[bare])

    def _pair(self, table: Path) -> None:
        *names, (last, offset) = self._key()
        path = table
        for name, at in names:
            path = (*path, name)
            self._offsets.setdefault(path, at)
        path = (*path, last)
        self._once(self._offsets, path, offset)
        if not self._text.startswith("=", self._at):
            raise _NotTomlError
        self._at += 1
        self._skip(_BLANK)
        self._value(path)

    def _key(self) -> list[tuple[str, int]]:
        """The parts of a dotted key; stands behind it and its blanks afterwards."""
        parts = []
        while True:
            self._skip(_BLANK)
            start = self._at
            quoted = _STRING.match(self._text, start)
            found = quoted or _BARE.match(self._text, start)
            if found is None:
                raise _NotTomlError
            self._at = found.end()
            parts.append((_unquoted(found.group()) if quoted else found.group(), start))
            if len(parts) > MAX_DEPTH:
                raise TooDeepError(start)
            self._skip(_BLANK)
            if not self._text.startswith(".", self._at):
                return parts
            self._at += 1

    def _value(self, path: Path) -> None:
        if len(path) > MAX_DEPTH:
            raise TooDeepError(self._at)
        match self._text[self._at]:
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case _:
                found = _STRING.match(self._text, self._at) or _PLAIN_VALUE.match(self._text, self._at)
                self._at = found.end() if found else len(self._text)

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while True:
            self._skip(_SPACE)
            if self._text[self._at] == "]":
                self._at += 1
                return
            self._offsets[(*path, index)] = self._at
            self._value((*path, index))
            index += 1
            self._skip(_SPACE)
            if self._text[self._at] == ",":
                self._at += 1
            elif self._text[self._at] != "]":
                raise _NotTomlError

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while True:
            self._skip(_SPACE)
            if self._text[self._at] == "}":
                self._at += 1
                return
            self._pair(path)
            self._skip(_SPACE)
            if self._text[self._at] == ",":
                self._at += 1
            elif self._text[self._at] != "}":
                raise _NotTomlError

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at


def _unquoted(text: str) -> str:
    if text.startswith("'"):
        return text[1:-1]
    return _ESCAPE.sub(_unescape, text[1:-1])


def _unescape(match: re.Match[str]) -> str:
    escape = match.group(1)
    if len(escape) == 1:
        return _ESCAPES.get(escape, escape)
    code = int(escape[1:], 16)
    return chr(code) if code <= sys.maxunicode else "\ufffd"  # tomllib refuses it next
