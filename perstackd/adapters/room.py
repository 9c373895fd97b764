"""Room on this machine, read from /proc/meminfo and the file systems that the daemon writes to."""

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

_AGAIN: Final = 1.2


class HostRoom:
    """Implements `Room`. Watermarks are bytes; 0 means that it is not looked at. `disks` are directories."""

    def __init__(self, memory: int, disk: int, disks: Sequence[Path], meminfo: Path = Path("/proc/meminfo")) -> None:
        self._memory = memory
        self._disk = disk
        self._disks = disks
        self._meminfo = meminfo
        self._lacking: frozenset[str] = frozenset()
        self._looking: asyncio.Future[str] | None = None

    async def lack(self) -> str:
        """A disk that hangs holds one thread, however often it is asked: a look that is under way is waited for."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().run_in_executor(None, self.lacking)
        return await asyncio.shield(self._looking)

    def lacking(self) -> str:
        """As `lack`; blocks."""
        found = {name: text for name, text in self._looked_at() if text}
        self._lacking = frozenset(found)
        return "; ".join(found.values())

    def _looked_at(self) -> Iterator[tuple[str, str]]:
        with suppress(OSError, KeyError, ValueError):
            yield "memory", self._judged("memory", "of memory are available", self._available(), self._memory)
        for disk in self._disks:
            with suppress(OSError):
                seen = os.statvfs(disk)
                free = seen.f_bavail * seen.f_frsize
                yield str(disk), self._judged(str(disk), f"are free on the disk of {disk}", free, self._disk)

    def _judged(self, name: str, words: str, amount: int, watermark: int) -> str:
        least = int(watermark * (_AGAIN if name in self._lacking else 1))
        if amount >= least:
            return ""
        return f"only {amount >> 20} MiB {words}, the watermark is {watermark >> 20} MiB"

    def _available(self) -> int:
        lines = (line.split() for line in self._meminfo.read_text().splitlines())
        return {words[0]: int(words[1]) << 10 for words in lines if len(words) > 1}["MemAvailable:"]
