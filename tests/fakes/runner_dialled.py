"""The other end of a sandbox's socket, frame by frame: as an honest runner, or as anything else that dials."""

import asyncio
import gc
import select
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
from perstack.v1 import runner_pb2 as pb
from perstack.v1.frames import LENGTH, frame, read_frame

from perstackd.adapters.clock import SystemClock
from perstackd.domain.ids import SandboxId
from perstackd.domain.session import Ask
from perstackd.rpc.runner import SocketRunnerLink, SocketRunnerLinks
from perstackd.rpc.runner_stream import LinkLimits

WAIT_SECONDS = 5.0
ID = SandboxId("01HZZZZZZZZZZZZZZZZZZZZZZZ")


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


class Program:
    """A connection that is on no event loop: what it said is in the kernel when the call returns, and so is its end."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def say(self, message: pb.FromRunner | None = None, **fields: Any) -> None:
        """What the kernel takes at once. Raises BlockingIOError, ConnectionError."""
        data = frame(message or pb.FromRunner(**fields))
        assert self._socket.send(data) == len(data)

    async def push(self, data: bytes, patience: float = WAIT_SECONDS) -> int:
        """How many bytes were taken, until nothing was for `patience` seconds."""
        return await asyncio.to_thread(self._pushed, data, patience)

    def _pushed(self, data: bytes, patience: float) -> int:
        sent, rest = 0, memoryview(data)
        while sent < len(data) and select.select((), (self._socket,), (), patience)[1]:
            with suppress(BlockingIOError):
                sent += self._socket.send(rest[sent:])
        return sent

    async def orders(self) -> list[pb.ToRunner]:
        """What comes until the daemon hangs up."""
        return await asyncio.to_thread(self._orders, WAIT_SECONDS)

    def left(self) -> list[pb.ToRunner]:
        """What is there already, with the end. Raises TimeoutError when the daemon has not hung up."""
        return self._orders(0)

    def _orders(self, patience: float) -> list[pb.ToRunner]:
        data = bytearray()
        with suppress(ConnectionError):
            while more := self._received(patience):
                data += more
        orders = []
        while len(data) >= LENGTH.size and len(data) >= (end := LENGTH.size + LENGTH.unpack_from(data)[0]):
            orders.append(pb.ToRunner.FromString(bytes(data[LENGTH.size : end])))
            del data[:end]
        return orders

    def _received(self, patience: float) -> bytes:
        if not select.select((self._socket,), (), (), patience)[0]:
            raise TimeoutError("the daemon did not hang up")
        return self._socket.recv(1 << 20)

    def die(self) -> None:
        self._socket.close()


@contextmanager
def program(path: Path) -> Iterator[Program]:
    """Raises OSError when nobody listens."""
    made = Program(path)
    try:
        yield made
    finally:
        made.die()


# --- the daemon's end -------------------------------------------------------------------------------------------------
@asynccontextmanager
async def linked(path: Path, limits: LinkLimits | None = None, token_hash: str = "") -> AsyncIterator[SocketRunnerLink]:
    link = await SocketRunnerLinks(SystemClock(), limits).listen(ID, str(path), token_hash)
    try:
        yield link
    finally:
        await link.close()


def hello(version: int = 1, token: str = "") -> pb.FromRunner:
    said = pb.Hello(protocol_version=version, runner_version="t", landlock_abi=1, session_token=token)
    return pb.FromRunner(hello=said)


async def greet(runner: Dialled) -> pb.ToRunner:
    runner.say(hello())
    return await runner.order()


async def first_ask(link: SocketRunnerLink) -> Ask:
    with anyio.fail_after(WAIT_SECONDS):
        return await anext(aiter(link.asks()))


async def heard(link: SocketRunnerLink) -> list[Ask]:
    """Every ask, with the loss that is the last."""
    with anyio.fail_after(2 * WAIT_SECONDS):
        return [ask async for ask in link.asks()]


async def ticks(count: int) -> None:
    """Turns of the event loop: all that is ready is done in each."""
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def nothing_unhandled() -> AsyncIterator[None]:
    """Fails when anything, also a CancelledError, comes to the event loop because nobody else took it."""
    loop, came = asyncio.get_running_loop(), list[dict[str, Any]]()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: came.append(context))
    try:
        yield
        await ticks(3)
        gc.collect(1)  # exceptions that nobody read
    finally:
        loop.set_exception_handler(before)
    assert not came
