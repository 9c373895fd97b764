"""Reads a tar archive that arrives in pieces: ustar, GNU and pax headers. Pure: no file is touched, nothing waits.

Own code, because the archive is hostile: `tarfile` reads a header of any size that the archive claims into memory,
and goes down a level for each that is chained to another. What this reader does not know is refused, never guessed.
The format is that of pax in POSIX.1-2001 and of tar(5) of libarchive.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias

from perstackd.domain.errors import Kind, PerstackError

BLOCK: Final = 512
MAX_EXTENSION: Final = 1 << 20
MAX_EXTENSIONS: Final = 8  # of one entry
_LATEST: Final = 1 << 33  # seconds since the epoch that every file system can write
_ZEROS: Final = bytes(BLOCK)
_PAX_RECORD: Final = re.compile(rb"(\d{1,7}) ([^=\n]{1,256})=")


class EntryKind(StrEnum):
    """What an entry is. Everything else that tar knows is refused."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it stands in the archive: nothing is checked of `path` and `target`. `size` bytes follow it."""

    path: bytes
    kind: EntryKind
    size: int = 0
    mode: int = 0o644
    mtime: int = 0
    target: bytes = b""


Piece: TypeAlias = Entry | bytes
_KINDS: Final = {
    b"0": EntryKind.FILE,
    b"\0": EntryKind.FILE,
    b"7": EntryKind.FILE,
    b"5": EntryKind.DIRECTORY,
    b"2": EntryKind.SYMLINK,
    b"1": EntryKind.HARDLINK,
}
_REFUSED: Final = {b"3": "a device", b"4": "a device", b"6": "a FIFO", b"S": "a sparse file"}
_EXTENSIONS: Final = frozenset({b"x", b"g", b"L", b"K"})


@dataclass(frozen=True, slots=True)
class _Overrides:
    """What extension headers say about the entry after them."""

    path: bytes | None = None
    target: bytes | None = None
    size: int | None = None
    mtime: int | None = None


class TarReader:
    """`feed` what arrives, and `finish` when nothing more does."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._content = 0  # bytes of the entry in hand that have not arrived
        self._padding = 0
        self._overrides = _Overrides()
        self._extensions = 0
        self._extension = b""
        self._ended = False

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Entries, each followed by its content in pieces. Every piece must be taken before more is fed.

        Raises:
            PerstackError: INVALID `archive_invalid`.
        """
        self._buffer += data
        while True:
            if self._extension:
                if not self._extend():
                    return
            elif self._content:
                if not self._buffer:
                    return
                yield self._some_content()
            elif self._padding:
                if not self._skip_padding():
                    return
            elif len(self._buffer) < BLOCK:
                return
            elif (entry := self._header()) is not None:
                yield entry

    def finish(self) -> None:
        """Raises PerstackError INVALID `archive_invalid` when the archive was cut off."""
        if not self._ended or self._buffer:
            raise _invalid(
                "it ends in the middle; it was cut off, or it is no tar archive (compressed ones are not taken)"
            )

    def _some_content(self) -> bytes:
        piece = bytes(self._buffer[: self._content])
        del self._buffer[: len(piece)]
        self._content -= len(piece)
        return piece

    def _skip_padding(self) -> bool:
        skipped = min(self._padding, len(self._buffer))
        del self._buffer[:skipped]
        self._padding -= skipped
        return not self._padding

    def _extend(self) -> bool:
        """Read a whole extension header's content, once it is there."""
        if len(self._buffer) < self._content:
            return False
        kind, text = self._extension, bytes(self._buffer[: self._content])
        del self._buffer[: self._content]
        self._content, self._extension = 0, b""
        match kind:
            case b"L":
                self._overrides = replace(self._overrides, path=text.rstrip(b"\0"))
            case b"K":
                self._overrides = replace(self._overrides, target=text.rstrip(b"\0"))
            case b"x":
                self._overrides = _overridden(self._overrides, dict(_pax_records(text)))
            case _:  # of the whole archive: a comment, as git writes it; what would rename each entry is not taken
                if {b"path", b"linkpath", b"size"} & dict(_pax_records(text)).keys():
                    raise _invalid("a global header gives all entries one name or size")
        return True

    def _header(self) -> Entry | None:
        block = bytes(self._buffer[:BLOCK])
        del self._buffer[:BLOCK]
        if block == _ZEROS:
            self._ended = True
            return None
        if self._ended:
            raise _invalid("something stands behind its end")
        _check_sum(block)
        kind, size = block[156:157], _number(block[124:136])
        if kind in _EXTENSIONS:
            self._begin_extension(kind, size)
            return None
        entry = self._entry(block, kind, size)
        self._overrides, self._extensions = _Overrides(), 0
        self._content = entry.size
        self._padding = -entry.size % BLOCK
        return entry

    def _begin_extension(self, kind: bytes, size: int) -> None:
        self._extensions += 1
        if size > MAX_EXTENSION or self._extensions > MAX_EXTENSIONS:
            raise _invalid(f"an entry has more than {MAX_EXTENSIONS} headers, or one of more than 1 MiB")
        self._extension, self._content, self._padding = kind, size, -size % BLOCK

    def _entry(self, block: bytes, kind: bytes, size: int) -> Entry:
        over = self._overrides
        path = over.path if over.path is not None else _name(block)
        if kind not in _KINDS:
            what = _REFUSED.get(kind, f"of the unknown type {kind!r}")
            raise PerstackError(
                Kind.DENIED, "archive_refused", f"the archive's entry {shown(path)} is {what}; leave it out"
            )
        known = _KINDS[kind]
        if known is EntryKind.FILE and path.endswith(b"/"):
            known = EntryKind.DIRECTORY  # as archives of before 1988 write it
        size = (over.size if over.size is not None else size) if known is EntryKind.FILE else 0
        target = over.target if over.target is not None else _text(block[157:257])
        mtime = over.mtime if over.mtime is not None else _number(block[136:148])
        return Entry(path, known, size, _number(block[100:108]) & 0o777, min(mtime, _LATEST), target)


def shown(path: bytes) -> str:
    """A path of an archive for a message."""
    return repr(path[:200].decode(errors="replace"))


def _name(block: bytes) -> bytes:
    name, prefix = _text(block[:100]), _text(block[345:500])
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """Octal digits, or GNU's binary form for what is too large for them."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    if text and not all(0x30 <= digit <= 0x37 for digit in text):
        raise _invalid("a header has a number that is none")
    return int(text or b"0", 8)


def _check_sum(block: bytes) -> None:
    if sum(block[:148]) + sum(block[156:]) + 8 * 0x20 != _number(block[148:156]):
        raise _invalid("a header's checksum is wrong; it is damaged, or no tar archive (compressed ones are not taken)")


def _pax_records(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at < len(text):
        found = _PAX_RECORD.match(text, at)
        if found is None:
            raise _invalid("a pax header is malformed")
        end = at + int(found[1])
        if end <= found.end() or end > len(text) or text[end - 1 : end] != b"\n":
            raise _invalid("a pax header is malformed")
        yield found[2], text[found.end() : end - 1]
        at = end


def _overridden(over: _Overrides, records: dict[bytes, bytes]) -> _Overrides:
    if any(key.startswith(b"GNU.sparse.") for key in records):
        raise PerstackError(Kind.DENIED, "archive_refused", "the archive has a sparse file; write it out in full")
    try:
        return _Overrides(
            records.get(b"path", over.path),
            records.get(b"linkpath", over.target),
            _natural(records[b"size"]) if b"size" in records else over.size,
            _seconds(records[b"mtime"]) if b"mtime" in records else over.mtime,
        )
    except ValueError as error:
        raise _invalid("a pax header has a number that is none") from error


def _seconds(text: bytes) -> int:
    """Whole seconds; 0 for what was before 1970."""
    return 0 if text.startswith(b"-") else _natural(text.partition(b".")[0])


def _natural(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ValueError(text)
    return int(text)


def _invalid(what: str) -> PerstackError:
    return PerstackError(Kind.INVALID, "archive_invalid", f"the archive cannot be read: {what}")
