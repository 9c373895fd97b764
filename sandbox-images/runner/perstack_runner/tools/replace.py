"""Changing a file that others may be changing: lock, see that it is still the same file, write beside, rename over.

Parallel runs share one tree from different sandboxes. The lock is flock(2) on the file; since a rename leaves waiters
with a lock on what was replaced, whoever gets it compares the file with the name and starts over when they differ.
"""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from perstack_runner.tools.outcome import ToolFailure
from perstack_runner.tools.tree import Place, Tree

LOCK_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.005
_TEMPORARY: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def locked(tree: Tree, place: Place, flags: int, deadline: float = 0.0) -> Iterator[int]:
    """A descriptor of the file that has the name, locked for this caller alone; `deadline` is in monotonic seconds.

    Raises:
        ToolFailure: file_busy after the deadline, or 10 s; not_a_file.
        OSError: as open(2).
    """
    deadline = deadline or time.monotonic() + LOCK_SECONDS
    while True:
        descriptor = tree.open_file(place, flags)
        try:
            _lock(descriptor, deadline, place)
            if _has_the_name(descriptor, place):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, deadline: float, place: Place) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                message = f"{place.shown}: another process has held the file for {LOCK_SECONDS:.0f} s; try again later"
                raise ToolFailure("file_busy", message) from None
            time.sleep(_POLL_SECONDS)


def _has_the_name(descriptor: int, place: Place) -> bool:
    mine = os.fstat(descriptor)
    try:
        named = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino)


def replace(place: Place, content: bytes, mode: int | None) -> None:
    """Put `content` under the name in one step: readers see the old file or the new one. `mode` None is a new file's.

    Raises:
        OSError: nothing was changed.
    """
    temporary, descriptor = beside(place, content, mode)
    os.close(descriptor)
    try:
        os.rename(temporary, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
    except BaseException:
        discard(place, temporary)
        raise


def beside(place: Place, content: bytes, mode: int | None) -> tuple[str, int]:
    """A new file with `content` in the same directory: its name and a descriptor. Raises OSError, leaving none."""
    temporary = temporary_name()
    descriptor = os.open(temporary, _TEMPORARY, 0o666, dir_fd=place.directory)
    try:
        write_all(descriptor, content)
        if mode is not None:
            os.fchmod(descriptor, stat.S_IMODE(mode) & 0o777)
    except BaseException:
        os.close(descriptor)
        discard(place, temporary)
        raise
    return temporary, descriptor


def temporary_name() -> str:
    """A name that nobody else uses; a runner that is killed may leave a file of it."""
    return f".perstack-{os.urandom(8).hex()}.tmp"


def discard(place: Place, temporary: str) -> None:
    """Remove a file beside, if that can be done: it is never what the caller is about."""
    with suppress(OSError):
        os.unlink(temporary, dir_fd=place.directory)


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
