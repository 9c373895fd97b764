"""127.0.0.1:3128 inside the sandbox, joined byte for byte to the sandbox's egress socket. Decides nothing.

3129 leads to the same place: programs that know nothing of proxies ask there for a route (http://127.0.0.1:3129/NAME/).
What may pass is decided behind the socket, by perstack-egress, which also ends connections that stay idle.
"""

import asyncio
from contextlib import suppress
from typing import Final

PORT: Final = 3128
MAX_CONNECTIONS: Final = 64
CONNECT_SECONDS: Final = 5.0
_BLOCK: Final = 64 << 10
_REFUSED: Final = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Listens on a port, for the proxy, and on the next one, for routes; on any two for port 0. Order at the end: it
    stops listening, then every connection is cut.
    """

    def __init__(self, egress_path: str, port: int = PORT) -> None:
        self._egress_path = egress_path
        self._wanted_port = port
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Where the proxy listens, or will."""
        return _port(self._servers[0]) if self._servers else self._wanted_port

    @property
    def route_port(self) -> int:
        """Where routes are asked for."""
        return _port(self._servers[1]) if len(self._servers) > 1 else self._next_port

    async def start(self) -> None:
        """Listen on loopback, at both ports or none. Raises OSError."""
        try:
            for port in (self._wanted_port, self._next_port):
                self._servers.append(await asyncio.start_server(self._accept, "127.0.0.1", port, limit=_BLOCK))
        except OSError:
            await self.close()
            raise

    async def close(self) -> None:
        """Idempotent."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=1)

    @property
    def _next_port(self) -> int:
        return self._wanted_port + 1 if self._wanted_port else 0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= MAX_CONNECTIONS:
            await _end(writer, _REFUSED)
            return
        self._connections.add(task)
        try:
            await self._join(reader, writer)
        finally:
            self._connections.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                outward, inward = await asyncio.open_unix_connection(self._egress_path, limit=_BLOCK)
        except (OSError, TimeoutError):
            await _end(writer, _REFUSED)
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, inward))
                both.create_task(_pump(outward, writer))
        finally:
            for side in (writer, inward):
                side.close()


def _port(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Copy until the source ends, then end the sink's direction only."""
    try:
        while data := await source.read(_BLOCK):
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
    except OSError:
        sink.close()  # one side is gone: the other direction ends with it


async def _end(writer: asyncio.StreamWriter, answer: bytes) -> None:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            writer.write(answer)
            await writer.drain()
    writer.close()
