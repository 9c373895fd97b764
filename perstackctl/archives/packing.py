"""A directory of the caller as a tar archive, in pieces. Blocking."""

import os
import stat
import tarfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

from perstackctl.client.errors import InvalidError
from perstackctl.output import note

PIECE: Final = 256 << 10


def packed(directory: Path) -> Generator[bytes, None, None]:
    """Pieces of at most 256 KiB. Names are from `directory` on; sockets, FIFOs and devices are left out with a note,
    and links are sent as they are, for the daemon to judge.

    Raises:
        InvalidError: something cannot be read.
    """
    waiting = bytearray()
    for piece in _archive(directory):
        waiting += piece
        while len(waiting) >= PIECE:
            yield bytes(waiting[:PIECE])
            del waiting[:PIECE]
    yield bytes(waiting)


def _archive(directory: Path) -> Iterator[bytes]:
    try:
        yield from _below(directory, "")
    except OSError as error:
        raise InvalidError(f"{error.filename}: {error.strerror}", reason="file_unreadable") from None
    yield bytes(2 * tarfile.BLOCKSIZE)


def _below(directory: Path, above: str) -> Iterator[bytes]:
    for path in sorted(directory.iterdir()):
        name, seen = above + path.name, path.lstat()
        if stat.S_ISDIR(seen.st_mode):
            yield _header(name, seen, tarfile.DIRTYPE)
            yield from _below(path, f"{name}/")
        elif stat.S_ISLNK(seen.st_mode):
            yield _header(name, seen, tarfile.SYMTYPE, target=str(path.readlink()))
        elif stat.S_ISREG(seen.st_mode):
            yield from _file(path, name)
        else:
            note(f"{path} is no file, directory or link, and was left out")


def _file(path: Path, name: str) -> Iterator[bytes]:
    """Exactly as many bytes as the header says, also of a file that is being written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        seen = os.fstat(file.fileno())
        yield _header(name, seen, tarfile.REGTYPE, size=seen.st_size)
        left = seen.st_size
        while left:
            piece = file.read(min(left, PIECE)) or bytes(min(left, PIECE))
            left -= len(piece)
            yield piece
    yield bytes(-seen.st_size % tarfile.BLOCKSIZE)


def _header(name: str, seen: os.stat_result, kind: bytes, *, size: int = 0, target: str = "") -> bytes:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size, entry.linkname = kind, size, target
    entry.mode, entry.mtime = stat.S_IMODE(seen.st_mode) & 0o777, int(seen.st_mtime)
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
