"""The other end of a sandbox's socket, frame by frame: as an honest runner, or as anything else that dials."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from perstack.v1 import runner_pb2 as pb
from perstack.v1.frames import frame, read_frame

WAIT_SECONDS = 5.0


class Dialled:
    """One connection. What is said goes out at once; None is read at the end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    def say(self, message: pb.FromRunner | None = None, **fields: Any) -> None:
        self.writer.write(frame(message or pb.FromRunner(**fields)))

    async def read(self) -> pb.ToRunner | None:
        async with asyncio.timeout(WAIT_SECONDS):
            data = await read_frame(self._reader, 64 << 20)
        return None if data is None else pb.ToRunner.FromString(data)

    async def order(self) -> pb.ToRunner:
        order = await self.read()
        assert order is not None, "the daemon hung up"
        return order

    async def rejection(self) -> str:
        """Why the daemon does not have it."""
        reason = (await self.order()).rejected.reason
        assert await self.read() is None
        return reason

    async def leave(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


@asynccontextmanager
async def dialled(path: Path) -> AsyncIterator[Dialled]:
    """Raises OSError when nobody listens."""
    runner = Dialled(*await asyncio.open_unix_connection(path))
    try:
        yield runner
    finally:
        await runner.leave()
