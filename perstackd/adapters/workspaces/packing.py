"""A workspace as a tar archive, in pieces. The tree is hostile and may be changing: it is walked by descriptor, follows
no link, opens nothing but regular files for reading, and is bounded. Blocking.

Sockets, FIFOs and devices are left out; links are written as they are, and whoever unpacks them judges them.
"""

import errno
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from perstackd.adapters.workspaces import syscalls
from perstackd.domain.errors import Kind, PerstackError

CHUNK: Final = 256 << 10
MAX_DEPTH: Final = 128
_INSIDE: Final = syscalls.INSIDE | syscalls.RESOLVE_NO_XDEV
_GONE: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EXDEV})


@dataclass(slots=True)
class _Bounds:
    bytes: int
    entries: int

    def spend(self, size: int) -> None:
        self.bytes -= size
        self.entries -= 1
        if min(self.bytes, self.entries) < 0:
            raise PerstackError(
                Kind.EXHAUSTED,
                "workspace_too_large",
                "the archive would be larger than the workspace may be: it has sparse or many times linked files; "
                "get a part of it, or look at it in a job",
            )


def packed(root: int, path: str, most_bytes: int, most_entries: int) -> Iterator[bytes]:
    """The archive of the directory or file `path` below the open directory `root`, in pieces of at most `CHUNK`.
    Names are from that directory on; a file is alone, under its own name.

    Raises:
        PerstackError: NOT_FOUND `workspace_file_not_found`; DENIED `workspace_file_refused`; EXHAUSTED
            `workspace_too_large`, `workspace_too_deep`.
    """
    bounds = _Bounds(most_bytes, most_entries)
    wanted = path.strip("/") or "."
    found = _opened(root, wanted)
    try:
        if stat.S_ISDIR(os.fstat(found).st_mode):
            yield from _tree(found, "", bounds, 1)
        else:
            yield from _entry(found, wanted.rpartition("/")[2], bounds)
    finally:
        os.close(found)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _opened(root: int, path: str) -> int:
    try:
        if "\0" in path:
            raise OSError(errno.ELOOP, "a zero byte")
        return syscalls.openat2(root, path, os.O_PATH | os.O_NOFOLLOW, _INSIDE)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EXDEV}:
            message = f"{path[:200]!r} has a symbolic link in it or leaves the workspace; name the real path"
            raise PerstackError(Kind.DENIED, "workspace_file_refused", message) from error
        message = f"the workspace has no {path[:200]!r}: {os.strerror(error.errno or errno.EIO)}"
        raise PerstackError(Kind.NOT_FOUND, "workspace_file_not_found", message) from error


def _tree(directory: int, above: str, bounds: _Bounds, depth: int) -> Iterator[bytes]:
    if depth > MAX_DEPTH:
        message = f"{above[:200]!r} lies deeper than {MAX_DEPTH} directories; get a part of the workspace"
        raise PerstackError(Kind.EXHAUSTED, "workspace_too_deep", message)
    for name in _names(directory, bounds):
        try:
            found = syscalls.openat2(directory, name, os.O_PATH | os.O_NOFOLLOW, _INSIDE)
        except OSError as error:
            if error.errno in _GONE:
                continue  # it was removed or replaced while we looked
            raise
        try:
            yield from _entry(found, above + name, bounds)
            if stat.S_ISDIR(os.fstat(found).st_mode):
                yield from _tree(found, f"{above}{name}/", bounds, depth + 1)
        finally:
            os.close(found)


def _names(directory: int, bounds: _Bounds) -> list[str]:
    reading = syscalls.openat2(directory, ".", os.O_RDONLY | os.O_DIRECTORY, _INSIDE)
    names: list[str] = []
    try:
        with os.scandir(reading) as entries:
            for entry in entries:
                names.append(entry.name)
                if len(names) > bounds.entries:
                    bounds.spend(bounds.bytes + 1)
    finally:
        os.close(reading)
    return sorted(names)


def _entry(found: int, name: str, bounds: _Bounds) -> Iterator[bytes]:
    seen = os.fstat(found)
    entry = tarfile.TarInfo(name)
    entry.mode, entry.mtime = stat.S_IMODE(seen.st_mode) & 0o777, int(seen.st_mtime)
    if stat.S_ISDIR(seen.st_mode):
        entry.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(seen.st_mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink("", dir_fd=found)
    elif stat.S_ISREG(seen.st_mode):
        entry.size = seen.st_size
    else:
        return
    bounds.spend(entry.size)
    yield entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if entry.size:
        yield from _content(found, entry.size)


def _content(found: int, size: int) -> Iterator[bytes]:
    """Exactly as many bytes as the header says, whatever becomes of the file meanwhile."""
    reading = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    left = size
    try:
        while left:
            piece = os.read(reading, min(left, CHUNK))
            piece = piece or bytes(min(left, CHUNK))
            left -= len(piece)
            yield piece
    finally:
        os.close(reading)
    yield bytes(-size % tarfile.BLOCKSIZE)
