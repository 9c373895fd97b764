"""What a child prints: read on the loop, kept within bounds, shown by its head and tail."""

import asyncio
import os
from collections.abc import Callable
from typing import Final

from perstack_runner.tools.utf8 import without_cut_end, without_cut_start

_READ_BYTES: Final = 64 << 10
_FLOOD_PAUSE_SECONDS: Final = 0.001
_TAIL_BYTES: Final = 16 << 10

Feed = Callable[[bytes], None]


class Output:
    """A pipe's content: the first `kept` bytes and the last 16 KiB, however much comes. Read on the loop, not blocking.

    Past `kept` it reads at most 64 MiB/s, so that a program that floods does not keep the loop busy.
    """

    def __init__(self, kept: int, feed: Feed) -> None:
        self._kept = kept
        self._feed = feed
        self._tail = bytearray()
        self._loop = asyncio.get_running_loop()
        self.head = bytearray()
        self.total = 0
        self.ended = asyncio.Event()
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._loop.add_reader(self._reader, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._reader, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self.close()
            return
        self._take(data)
        if self.total > self._kept:
            self._loop.remove_reader(self._reader)
            self._loop.call_later(_FLOOD_PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._reader >= 0:
            self._loop.add_reader(self._reader, self._read)

    def _take(self, data: bytes) -> None:
        room = self._kept - len(self.head)
        if room > 0:
            self.head += data[:room]
        self._tail += data[-_TAIL_BYTES:]
        del self._tail[:-_TAIL_BYTES]
        self.total += len(data)
        self._feed(data)

    def close_writer(self) -> None:
        """Close our end of the pipe's writing side. Idempotent."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self) -> None:
        """Stop reading. Idempotent."""
        self.close_writer()
        if self._reader >= 0:
            self._loop.remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1
        self.ended.set()

    def shown(self, limit: int) -> str:
        """All of it, or head and tail with the number of bytes between, about `limit` bytes in all."""
        if self.total <= min(limit, len(self.head)):
            return self.head.decode("utf-8", "replace")
        head, tail = bytes(self.head[: limit // 2]), bytes(self._tail[-(limit // 2) :])
        head, tail = without_cut_end(head), without_cut_start(tail)
        left_out = self.total - len(head) - len(tail)
        note = f"\n[... {left_out} bytes left out ...]\n"
        return note.join(part.decode("utf-8", "replace") for part in (head, tail))


async def within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event; whether it came in time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
