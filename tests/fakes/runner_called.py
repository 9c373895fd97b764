"""A daemon that does what each test says, on a plain socket: the other end of the runner's link."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from perstack.v1 import runner_pb2 as pb
from perstack.v1.frames import LENGTH, frame
from perstack_runner.link import Link
from perstack_runner.messages import Hello, Order

WAIT_SECONDS = 10.0
HELLO = Hello("3.11", 1, False, ())
TOKEN = "t" * 32


class Connection:
    """One that the runner made. Nothing is read from it but on demand: what is not asked for stays in the kernel."""

    def __init__(self, accepted: socket.socket) -> None:
        self._socket = accepted
        self._data = bytearray()

    async def read(self) -> pb.FromRunner | None:
        """The next message; None at the end."""
        async with asyncio.timeout(WAIT_SECONDS):
            while (message := self._next()) is None:
                try:
                    more = await asyncio.get_running_loop().sock_recv(self._socket, 1 << 16)
                except ConnectionError:
                    return None
                if not more:
                    return None
                self._data += more
            return message

    def _next(self) -> pb.FromRunner | None:
        if len(self._data) < LENGTH.size or len(self._data) < (end := LENGTH.size + LENGTH.unpack_from(self._data)[0]):
            return None
        message = pb.FromRunner.FromString(bytes(self._data[LENGTH.size : end]))
        del self._data[:end]
        return message

    async def ask(self) -> pb.FromRunner:
        message = await self.read()
        assert message is not None, "the runner hung up"
        return message

    def in_kernel(self) -> list[pb.FromRunner]:
        """What is there without another turn of the event loop."""
        with suppress(BlockingIOError):
            while more := self._socket.recv(1 << 20):
                self._data += more
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def say(self, **order: Any) -> None:
        self.write(frame(pb.ToRunner(**order)))

    def write(self, data: bytes) -> None:
        assert self._socket.send(data) == len(data)

    async def welcome(self, acknowledged: int = 0) -> str:
        """The token of the hello, which is answered."""
        hello = (await self.ask()).hello
        assert (hello.protocol_version, hello.python_version) == (1, "3.11")
        self.say(welcome=pb.Welcome(session_token=TOKEN, acknowledged=acknowledged))
        return hello.session_token

    async def reject(self, reason: str = "no") -> None:
        await self.ask()
        self.say(rejected=pb.Rejected(reason=reason))
        self.close()

    def close(self) -> None:
        self._socket.close()


def counters(messages: list[pb.FromRunner]) -> list[int]:
    return [message.counter for message in messages]


async def asks(connection: Connection, count: int) -> list[int]:
    """The counters of the next messages."""
    return counters([await connection.ask() for _ in range(count)])


class Daemon:
    """Listens; `dials` says when each connection came, in the loop's seconds."""

    def __init__(self, path: Path, backlog: int = 8) -> None:
        self.path = path
        self.dials: list[float] = []
        self._made: list[Connection] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        self._socket.bind(str(path))
        self._socket.listen(backlog)

    async def connection(self) -> Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(WAIT_SECONDS):
            accepted, _ = await loop.sock_accept(self._socket)
        self.dials.append(loop.time())
        accepted.setblocking(False)
        self._made.append(Connection(accepted))
        return self._made[-1]

    def close(self) -> None:
        for made in self._made:
            made.close()
        self._socket.close()


class Scene:
    """A runner's link to such a daemon, with the orders that it delivered."""

    def __init__(self, path: Path) -> None:
        self.daemon = Daemon(path)
        self.orders: list[Order] = []
        self._came = asyncio.Event()
        self.link = Link(str(path), HELLO, self._deliver)
        self.running = asyncio.create_task(self.link.run())

    def _deliver(self, order: Order) -> None:
        self.orders.append(order)
        self._came.set()

    async def delivered(self, count: int) -> list[Order]:
        """The orders, once there are so many."""
        async with asyncio.timeout(WAIT_SECONDS):
            while len(self.orders) < count:
                self._came.clear()
                await self._came.wait()
        return self.orders

    async def welcomed(self, acknowledged: int = 0) -> Connection:
        connection = await self.daemon.connection()
        await connection.welcome(acknowledged)
        before = len(self.orders)
        await self.delivered(before + 1)
        return connection

    async def ended(self) -> None:
        """Raises what run() raised."""
        async with asyncio.timeout(WAIT_SECONDS):
            await asyncio.shield(self.running)


@asynccontextmanager
async def scene_at(path: Path) -> AsyncIterator[Scene]:
    """The link runs until the end of the block."""
    scene = Scene(path)
    try:
        yield scene
    finally:
        scene.running.cancel()
        await asyncio.wait((scene.running,), timeout=WAIT_SECONDS)
        scene.daemon.close()
