"""Moves the bytes of one tunnel both ways and counts them. Holds at most one chunk a direction, and none while idle."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

from perstack_egress.allowance import Meter, Spent
from perstack_egress.idle import Idle

CHUNK = 1 << 17
# Between turns of other tunnels; uvloop yields on every read, asyncio's own loop only when a socket is empty.
_TURN = 1 << 20


class Tunnel:
    """One client, one upstream. The caller owns and closes the sockets."""

    def __init__(self, client: socket.socket, upstream: socket.socket, idle_timeout: float, meter: Meter) -> None:
        self._client = client
        self._upstream = upstream
        self._idle_timeout = idle_timeout
        self._meter = meter

    async def relay(self, first: bytes = b"") -> str:
        """Send `first` up, then pump until both sides are done. An end of one side is passed on; the other may go on.

        Returns "" after a clean end, else "idle_timeout", "connection_lost", "tunnel_bytes_exceeded" or
        "sandbox_bytes_exceeded": then no byte beyond the allowance has passed.
        """
        try:
            async with Idle(self._idle_timeout) as idle, asyncio.TaskGroup() as group:
                group.create_task(self._pump(self._client, self._upstream, self._meter.up, idle, first))
                group.create_task(self._pump(self._upstream, self._client, self._meter.down, idle))
        except TimeoutError:
            return "idle_timeout"
        except BaseExceptionGroup as failures:
            return end_of(failures)
        return ""

    async def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        count: Callable[[int], None],
        idle: Idle,
        first: bytes = b"",
    ) -> None:
        loop, moved = asyncio.get_running_loop(), 0
        data = first or await loop.sock_recv(source, CHUNK)
        while data:
            count(len(data))
            if not await _send(sink, data):
                break
            moved += len(data)
            idle.moved()
            if moved % _TURN < len(data):
                await asyncio.sleep(0)
            data = await loop.sock_recv(source, CHUNK)
        finish(sink)


def end_of(failures: BaseExceptionGroup[BaseException]) -> str:
    """Why two pumps ended: what was spent, else "connection_lost". Raises anything that is neither."""
    spent = failures.subgroup(Spent)
    others = failures.split((OSError, Spent))[1]
    if others is not None:
        raise others
    while isinstance(spent, BaseExceptionGroup):
        first = spent.exceptions[0]
        if isinstance(first, Spent):
            return first.reason
        spent = first if isinstance(first, BaseExceptionGroup) else None
    return "connection_lost"


def finish(sink: socket.socket) -> None:
    """Tell the sink that no more comes."""
    with suppress(OSError):  # it is gone already
        sink.shutdown(socket.SHUT_WR)


async def _send(sink: socket.socket, data: bytes) -> bool:
    """Whether the sink took it. One that is gone ends its direction only: the other may have bytes left to deliver."""
    try:
        await asyncio.get_running_loop().sock_sendall(sink, data)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True
