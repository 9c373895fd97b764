"""What a server says beside the protocol, on its standard error and in log messages: bounded, and remembered."""

import asyncio
from collections.abc import Callable
from typing import Final

import anyio

from perstack_runner.skills.pipes import blocks

EVERY_SECONDS: Final = 0.5
MOST_BYTES: Final = 4 << 10


class LastWords:
    """Reports at most 4 KiB each half second of each source, and remembers the last 2 KiB of standard error."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._logged = bytearray()
        self._left_out = 0
        self._timer: asyncio.TimerHandle | None = None
        self.text = ""

    async def read(self, descriptor: int) -> None:
        """Read standard error to its end."""
        pending = bytearray()
        dropped = 0
        due = anyio.current_time()
        async for data in blocks(descriptor):
            room = MOST_BYTES - len(pending)
            pending += data[:room]
            dropped += max(0, len(data) - room)
            self.text = (self.text + data[-2048:].decode("utf-8", "replace"))[-2048:]
            wait = due - anyio.current_time()
            if wait > 0 and len(pending) < MOST_BYTES:
                continue
            if wait > 0:
                await anyio.sleep(wait)  # the pipe fills and the server waits: its own flood is its own delay
            self._say(pending, dropped)
            pending.clear()
            dropped, due = 0, anyio.current_time() + EVERY_SECONDS
        self._say(pending, dropped)

    def log(self, line: str) -> None:
        """Take a log message. Reported within half a second."""
        data = line.encode("utf-8", "replace") + b"\n"
        room = MOST_BYTES - len(self._logged)
        self._logged += data[:room]
        self._left_out += max(0, len(data) - room)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY_SECONDS, self.flush)

    def flush(self) -> None:
        """Report the log messages that wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._say(self._logged, self._left_out)
        self._logged.clear()
        self._left_out = 0

    def _say(self, pending: bytearray, dropped: int) -> None:
        text = pending.decode("utf-8", "replace").strip()
        note = f" [{dropped} bytes left out]" if dropped else ""
        if text or note:
            self._report(text + note)
