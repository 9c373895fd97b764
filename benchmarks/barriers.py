"""Counts durable barriers in the daemon's process and shows them to the benchmark's, through one small shared file.

A barrier is a commit that changed something (the store commits with synchronous = FULL, so each is one sync of its
log), or a sync that Python asks for itself, as the blobs do.
"""

import mmap
import os
import sqlite3
import struct
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

_LAYOUT: Final = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Barriers:
    """Counts since the daemon's start."""

    commits: int
    file_syncs: int

    def __sub__(self, before: "Barriers") -> "Barriers":
        return Barriers(self.commits - before.commits, self.file_syncs - before.file_syncs)

    def per(self, count: int) -> dict[str, float]:
        """For a report's detail: barriers for each of `count`."""
        return {
            "commits_each": round(self.commits / count, 2),
            "file_syncs_each": round(self.file_syncs / count, 2),
        }


class BarrierFile:
    """The shared counts. One process writes, any may read."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, mmap.PAGESIZE)
            self._memory = mmap.mmap(descriptor, mmap.PAGESIZE)
        finally:
            os.close(descriptor)
        self._lock = threading.Lock()

    def read(self) -> Barriers:
        """The counts now."""
        return Barriers(*_LAYOUT.unpack_from(self._memory))

    def add(self, commits: int = 0, file_syncs: int = 0) -> None:
        """Called in the daemon's process, from any thread."""
        with self._lock:
            now = self.read()
            _LAYOUT.pack_into(self._memory, 0, now.commits + commits, now.file_syncs + file_syncs)

    def close(self) -> None:
        """Let go of the memory; the file stays."""
        self._memory.close()


def count_here(file: BarrierFile) -> None:
    """Count every barrier of this process from now on. For the benchmark's own daemon, before its store is opened."""

    class Counting(sqlite3.Connection):
        written = 0

        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            cursor = super().execute(sql, parameters)
            if sql == "COMMIT" and self.total_changes != self.written:  # an empty commit syncs nothing
                self.written = self.total_changes
                file.add(commits=1)
            return cursor

    sync = os.fsync

    def counted_sync(descriptor: Any, /) -> None:
        file.add(file_syncs=1)
        sync(descriptor)

    # sqlite3.connect takes the class of its connections as an argument; the store has no reason to let it through.
    sqlite3.connect = partial(sqlite3.connect, factory=Counting)  # type: ignore[assignment]
    os.fsync = counted_sync  # type: ignore[assignment]
