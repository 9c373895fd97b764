"""An HTTPS origin on loopback that records what it was sent, byte for byte, and answers as it is told."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Seen:
    """One request; `body` as it stood on the wire, chunks and all."""

    head: str
    body: bytearray = field(default_factory=bytearray)

    @property
    def fields(self) -> dict[str, str]:
        return {
            name.lower(): value for name, value in (line.split(": ", 1) for line in self.head.split("\r\n")[1:] if line)
        }


@dataclass
class Origin:
    """`answer` is sent as soon as the head is there, unless `after_body` has that many bytes of body come first."""

    port: int = 0
    answer: bytes = OK
    after_body: int = 0
    hold: asyncio.Event | None = None
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            request = Seen((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
            self.seen.append(request)
            while len(request.body) < self.after_body:
                more = await reader.read(1 << 16)
                if not more:
                    return
                request.body += more
            writer.write(self.answer)
            await writer.drain()
            if self.hold is not None:
                await self.hold.wait()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the proxy let go
        finally:
            writer.close()


@asynccontextmanager
async def origin(context: ssl.SSLContext) -> AsyncIterator[Origin]:
    served = Origin()
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0, ssl=context)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        if served.hold is not None:
            served.hold.set()
        server.close()
        await server.wait_closed()
