"""Cleaning of managed workspaces: no setuid or setgid bit and no device node is left behind.

Such files lie below a directory that only root may enter and come through a filter that refuses their making; this is
the third line. The tree is hostile and may be changing: it is walked by descriptor, follows no link, and is bounded.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perstackd.adapters.workspaces import syscalls

_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
MAX_DEPTH: Final = 128
MAX_ENTRIES: Final = 500_000
MAX_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Swept:
    """What was done. `complete` is false when a bound was reached and part of the tree was not looked at."""

    entries: int
    cleared: int
    removed: int
    complete: bool


class _Walk:
    """The counts and bounds of one sweep."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._deadline = now() + MAX_SECONDS
        self.entries = self.cleared = self.removed = 0
        self.complete = True

    def spent(self) -> bool:
        if self.entries >= MAX_ENTRIES or self._now() > self._deadline:
            self.complete = False
            return True
        return False

    def visit(self, directory: int, depth: int) -> None:
        """Clean what lies in `directory`, then go down, at most MAX_DEPTH descriptors deep."""
        for name in list(_names(directory)):
            if self.spent():
                return
            self.entries += 1
            try:
                self._entry(directory, name, depth)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it was removed or replaced while we looked: the sandboxes of another job share the workspace

    def _entry(self, directory: int, name: str, depth: int) -> None:
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                os.unlink(name, dir_fd=directory)
                self.removed += 1
            elif not stat.S_ISLNK(mode):
                self._clear(descriptor, mode)
                if stat.S_ISDIR(mode):
                    self._descend(descriptor, depth)
        finally:
            os.close(descriptor)

    def _clear(self, descriptor: int, mode: int) -> None:
        if mode & _SET_ID:
            Path(f"/proc/self/fd/{descriptor}").chmod(stat.S_IMODE(mode) & ~_SET_ID)
            self.cleared += 1

    def _descend(self, descriptor: int, depth: int) -> None:
        if depth >= MAX_DEPTH:
            self.complete = False
            return
        self.visit(descriptor, depth + 1)


def sweep(root: int, now: Callable[[], float] = time.monotonic) -> Swept:
    """Clean the tree below the open directory `root`. Blocking, at most about MAX_SECONDS."""
    walk = _Walk(now)
    walk._clear(root, os.fstat(root).st_mode)
    walk.visit(root, 1)
    return Swept(walk.entries, walk.cleared, walk.removed, walk.complete)


def _names(directory: int) -> Iterator[str]:
    reading = syscalls.openat2(directory, ".", os.O_RDONLY | os.O_DIRECTORY, syscalls.INSIDE)
    try:
        with os.scandir(reading) as entries:
            for entry in entries:
                yield entry.name
    finally:
        os.close(reading)
