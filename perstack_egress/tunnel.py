"""Moves the bytes of one tunnel both ways and counts them. Holds at most one chunk a direction, and none while idle."""

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass

CHUNK = 1 << 17
# Between turns of other tunnels; uvloop yields on every read, asyncio's own loop only when a socket is empty.
_TURN = 1 << 20


@dataclass(slots=True)
class Counts:
    """Bytes that were handed over, from the sandbox (`up`) and to it (`down`)."""

    up: int = 0
    down: int = 0


class Tunnel:
    """One client, one upstream. The caller owns and closes the sockets."""

    def __init__(self, client: socket.socket, upstream: socket.socket, idle_timeout: float) -> None:
        self.counts = Counts()
        self._client = client
        self._upstream = upstream
        self._idle_timeout = idle_timeout
        self._moved_at = 0.0

    async def relay(self, first: bytes = b"") -> str:
        """Send `first` up, then pump until both sides are done. An end of one side is passed on; the other may go on.

        Returns "" after a clean end, else "idle_timeout" or "connection_lost".
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._idle_timeout) as bound, asyncio.TaskGroup() as group:
                group.create_task(self._up(bound, first))
                group.create_task(self._down(bound))
                self._moved_at = loop.time()
        except TimeoutError:
            return "idle_timeout"
        except BaseExceptionGroup as failures:
            if failures.split(OSError)[1] is not None:
                raise
            return "connection_lost"
        return ""

    async def _up(self, bound: asyncio.Timeout, first: bytes) -> None:
        loop = asyncio.get_running_loop()
        data = first or await loop.sock_recv(self._client, CHUNK)
        while data and await _send(self._upstream, data):
            self.counts.up += len(data)
            self._moved(bound, loop.time())
            if self.counts.up % _TURN < len(data):
                await asyncio.sleep(0)
            data = await loop.sock_recv(self._client, CHUNK)
        _finish(self._upstream)

    async def _down(self, bound: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        data = await loop.sock_recv(self._upstream, CHUNK)
        while data and await _send(self._client, data):
            self.counts.down += len(data)
            self._moved(bound, loop.time())
            if self.counts.down % _TURN < len(data):
                await asyncio.sleep(0)
            data = await loop.sock_recv(self._upstream, CHUNK)
        _finish(self._client)

    def _moved(self, bound: asyncio.Timeout, now: float) -> None:
        """Put the idle time-out off, at most ten times in its length: each move costs a timer."""
        if now - self._moved_at > self._idle_timeout / 10 and not bound.expired():
            self._moved_at = now
            bound.reschedule(now + self._idle_timeout)


async def _send(sink: socket.socket, data: bytes) -> bool:
    """Whether the sink took it. One that is gone ends its direction only: the other may have bytes left to deliver."""
    try:
        await asyncio.get_running_loop().sock_sendall(sink, data)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _finish(sink: socket.socket) -> None:
    with suppress(OSError):  # it is gone already
        sink.shutdown(socket.SHUT_WR)
