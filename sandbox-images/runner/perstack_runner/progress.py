"""A running call's output for watchers: joined into few messages, and dropped rather than ever holding up the call."""

import asyncio
import codecs
from collections.abc import Callable
from typing import Final

INTERVAL_SECONDS: Final = 0.1
PENDING_BYTES: Final = 16 << 10


class OutputStream:
    """Sends what is fed at most every 0.1 s and 16 KiB at a time. What is over is left out: the offset tells the gap.

    `send` takes the offset in bytes of the call's output, and the text.
    """

    def __init__(self, send: Callable[[int, str], None]) -> None:
        self._send = send
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._pending = bytearray()
        self._offset = 0
        self._timer: asyncio.TimerHandle | None = None

    def feed(self, data: bytes) -> None:
        """Take output; the oldest that was not sent yet makes room."""
        self._pending += data
        over = len(self._pending) - PENDING_BYTES
        if over > 0:
            del self._pending[:over]
            self._offset += over
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_SECONDS, self._flush)

    def _flush(self) -> None:
        self._timer = None
        text = self._decode(bytes(self._pending))
        if text:
            self._send(self._offset, text)
        self._offset += len(self._pending)
        self._pending.clear()

    def close(self) -> None:
        """Send the rest; nothing is sent afterwards."""
        if self._timer is not None:
            self._timer.cancel()
            self._flush()
