"""Artefacts: results that are too large for a history. How they are named, shown and read piece by piece.

An artefact is a blob of the daemon's store that a result of the job refers to. A model sees its head and tail and a
short id; the rest it reads by range. No sandbox can change one, and no job sees another's.
"""

from dataclasses import dataclass
from typing import Final

from perstackd.domain.messages import BlobPart

ID_LENGTH: Final = 12
LEAST_ID: Final = 8
EXCERPT_HEAD: Final = 3 << 10
EXCERPT_TAIL: Final = 1 << 10
_PREFIX: Final = "sha256:"
_TEXT_TYPES: Final = frozenset(
    {"application/json", "application/xml", "application/javascript", "application/x-ndjson", "application/yaml"}
)


@dataclass(frozen=True, slots=True)
class Artefact:
    """A blob of a job, and the call that it came from."""

    blob: BlobPart
    run_id: str
    step: int
    call_id: str

    @property
    def id(self) -> str:
        """What a model calls it by."""
        return artefact_id(self.blob.digest)


def artefact_id(digest: str) -> str:
    """The short form of a digest."""
    return digest.removeprefix(_PREFIX)[:ID_LENGTH]


def is_text(media_type: str) -> bool:
    """Whether bytes of that type are read as UTF-8."""
    kind = media_type.partition(";")[0].strip().lower()
    return kind.startswith("text/") or kind in _TEXT_TYPES or kind.endswith(("+json", "+xml"))


def matching(wanted: str, known: dict[str, Artefact]) -> list[Artefact]:
    """The artefacts, by digest, that an id may mean: a digest, or its beginning."""
    start = _PREFIX + wanted.strip().lower().removeprefix(_PREFIX)
    return [artefact for digest, artefact in known.items() if digest.startswith(start)]


def excerpt(head: bytes, tail: bytes, size: int, lines: int) -> str:
    """What a model sees of a text of that many bytes and line ends: its first and its last bytes."""
    shown = whole_start(head).decode("utf-8", "replace"), whole_end(tail).decode("utf-8", "replace")
    left_out = size - len(head) - len(tail)
    if left_out <= 0:
        return (head + tail).decode("utf-8", "replace")
    between = max(0, lines - head.count(b"\n") - tail.count(b"\n"))
    first = head.count(b"\n")
    note = f"[... {left_out} bytes in {between} lines left out here, from line {first} on ...]"
    return f"{shown[0]}\n{note}\n{shown[1]}"


def whole_start(data: bytes) -> bytes:
    """`data` without a character that its end cuts."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            return data
        if byte >= 0xC0:
            needed = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return data if back >= needed else data[:-back]
    return data


def whole_end(data: bytes) -> bytes:
    """`data` without the rest of a character that its start cuts."""
    for skipped in range(min(4, len(data))):
        if data[skipped] & 0xC0 != 0x80:
            return data[skipped:]
    return data if len(data) >= 4 else b""  # four of them in a row are no text


def clipped(text: str, limit: int) -> str:
    """At most about `limit` characters: the beginning and the end."""
    if len(text) <= limit:
        return text
    head, tail = text[: limit * 3 // 4], text[-(limit // 4) :]
    return f"{head}[... {len(text) - len(head) - len(tail)} characters left out ...]{tail}"


class LinePage:
    """Picks the lines [`first`, `last`) out of a text that comes in pieces, at most `limit` bytes of them."""

    def __init__(self, first: int, last: int | None, limit: int) -> None:
        self._first = first
        self._last = last
        self._limit = limit
        self._line = 0
        self._taken = bytearray()
        self.full = False

    def feed(self, data: bytes) -> bool:
        """Take the next piece; whether another one is needed."""
        start, ends = 0, data.count(b"\n")
        if self._line + ends < self._first:
            self._line += ends
            return True
        while self._line < self._first:
            end = data.find(b"\n", start)
            if end < 0:
                return True
            start, self._line = end + 1, self._line + 1
        while start < len(data) and not self.done:
            end = data.find(b"\n", start)
            stop = len(data) if end < 0 else end + 1
            self._take(data[start : min(stop, start + self._limit + 1)])
            start, self._line = stop, self._line + (end >= 0 and not self.full)
        return not self.done

    def _take(self, piece: bytes) -> None:
        room = self._limit - len(self._taken)
        self.full = len(piece) > room
        self._taken += piece[:room]

    @property
    def done(self) -> bool:
        """Whether nothing more will be taken."""
        return self.full or (self._last is not None and self._line >= self._last)

    @property
    def reached(self) -> int:
        """The line after the last whole one that was taken."""
        return self._line

    @property
    def text(self) -> str:
        """What was taken."""
        return whole_start(bytes(self._taken)).decode("utf-8", "replace")
