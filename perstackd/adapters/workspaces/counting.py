"""How much lies in a workspace that has no size of its own: counted by walking, bounded. Blocking."""

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import Final

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.image import Usage

MAX_ENTRIES: Final = 200_000
MAX_SECONDS: Final = 3.0
_MAX_DEPTH: Final = 128
_INSIDE: Final = syscalls.INSIDE | syscalls.RESOLVE_NO_XDEV
_GONE: Final = frozenset({errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EXDEV})


def counted(root: int, now: Callable[[], float] = time.monotonic) -> tuple[Usage, bool]:
    """What lies below the open directory `root`, and whether all of it was looked at."""
    walk = _Walk(now)
    whole = walk.visit(root, 1)
    return Usage(walk.bytes, walk.files), whole


class _Walk:
    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._deadline = now() + MAX_SECONDS
        self.bytes = self.files = 0

    def visit(self, directory: int, depth: int) -> bool:
        if depth > _MAX_DEPTH:
            return False
        reading = syscalls.openat2(directory, ".", os.O_RDONLY | os.O_DIRECTORY, _INSIDE)
        try:
            with os.scandir(reading) as entries:
                return all(self._entry(directory, entry.name, depth) for entry in entries)
        finally:
            os.close(reading)

    def _entry(self, directory: int, name: str, depth: int) -> bool:
        if self.files >= MAX_ENTRIES or self._now() > self._deadline:
            return False
        try:
            found = syscalls.openat2(directory, name, os.O_PATH | os.O_NOFOLLOW, _INSIDE)
        except OSError as error:
            if error.errno in _GONE:
                return True  # it was removed or replaced while we looked
            raise
        try:
            seen = os.fstat(found)
            self.files += 1
            self.bytes += seen.st_blocks * 512
            return self.visit(found, depth + 1) if stat.S_ISDIR(seen.st_mode) else True
        finally:
            os.close(found)
