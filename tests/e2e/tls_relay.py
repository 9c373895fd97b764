"""TLS before a server of the host, in a thread of its own.

Every socket is owned by a task that closes it, and none has a transport: whatever moment the end comes in, a handshake
or a half-written answer, nothing waits for the loop to close it.
"""

import errno
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
from anyio.abc import ByteStream, TaskGroup
from anyio.from_thread import start_blocking_portal
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSStream

from examples.stand_in import Place

CHUNK_BYTES = 65536
BACKLOG = 100
_GONE = (anyio.BrokenResourceError, anyio.EndOfStream, OSError)  # an SSLError is an OSError


@contextmanager
def tls(where: Place, port: int) -> Iterator[tuple[int, list[Mapping[str, str]]]]:
    """TLS at the place, before what listens on `port` of loopback: its own port, and the headers of each request."""
    with (
        start_blocking_portal(name="tls-relay") as portal,
        portal.wrap_async_context_manager(_relaying(where, port)) as served,
    ):
        yield served


@asynccontextmanager
async def _relaying(where: Place, port: int) -> AsyncIterator[tuple[int, list[Mapping[str, str]]]]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(where.authority.with_name("server.pem"))
    relay = _Relay(context, port)
    with socket.create_server((where.address, 0), backlog=BACKLOG) as listener:
        listener.setblocking(False)
        async with anyio.create_task_group() as connections:
            try:
                async with anyio.create_task_group() as accepting:
                    accepting.start_soon(relay.accept, listener, connections)
                    yield listener.getsockname()[1], relay.requests
                    accepting.cancel_scope.cancel()
            finally:
                with anyio.CancelScope(shield=True):
                    await checkpoint()  # who was accepted last has begun, and owns its socket
                connections.cancel_scope.cancel()


class _Relay:
    """Copies bytes both ways and reads the headers that pass by."""

    def __init__(self, context: ssl.SSLContext, port: int) -> None:
        self.requests: list[Mapping[str, str]] = []
        self._context = context
        self._port = port

    async def accept(self, listener: socket.socket, connections: TaskGroup) -> None:
        """For ever. Nothing is awaited between taking a socket and giving it to its task."""
        while True:
            await anyio.wait_readable(listener)
            with suppress(BlockingIOError, ConnectionError):  # whoever dialled has gone
                connections.start_soon(self._joined, listener.accept()[0])

    async def _joined(self, accepted: socket.socket) -> None:
        with accepted, socket.socket() as dialled, suppress(*_GONE):
            outer = await TLSStream.wrap(
                _Raw(accepted), server_side=True, ssl_context=self._context, standard_compatible=False
            )
            inner = await _dial(dialled, self._port)
            async with anyio.create_task_group() as both:
                both.start_soon(self._ask, outer, inner)
                await _copy(inner, outer)
                both.cancel_scope.cancel()

    async def _ask(self, outer: ByteStream, inner: ByteStream) -> None:
        """What the caller sends, and that it sends no more."""
        await _copy(outer, inner, self._note)
        with suppress(*_GONE):
            await inner.send_eof()

    def _note(self, data: bytes) -> None:
        for head in re.findall(rb"(?:^|\n)((?:GET|POST|DELETE) [^\r\n]+\r\n(?:[^\r\n]+\r\n)+)\r\n", data):
            lines = head.decode("latin-1").splitlines()[1:]
            self.requests.append(
                {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            )


class _Raw(ByteStream):
    """A connected socket, which somebody else closes."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._sending = anyio.Lock()

    async def receive(self, max_bytes: int = CHUNK_BYTES) -> bytes:
        while True:
            await anyio.wait_readable(self._socket)
            with suppress(BlockingIOError):
                if data := self._socket.recv(max_bytes):
                    return data
                raise anyio.EndOfStream

    async def send(self, item: bytes) -> None:
        """Whole, also while another sends: TLS answers its peer on its own."""
        rest = memoryview(item)
        async with self._sending:
            while rest:
                await anyio.wait_writable(self._socket)
                with suppress(BlockingIOError):
                    rest = rest[self._socket.send(rest) :]

    async def send_eof(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Nothing: its owner closes it."""


async def _dial(unconnected: socket.socket, port: int) -> _Raw:
    made = _Raw(unconnected)
    if unconnected.connect_ex(("127.0.0.1", port)) == errno.EINPROGRESS:
        await anyio.wait_writable(unconnected)
    if failed := unconnected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(failed, "nothing listens behind the relay")
    return made


async def _copy(source: ByteStream, sink: ByteStream, noting: Callable[[bytes], Any] = len) -> None:
    """Until one of them ends."""
    with suppress(*_GONE):
        async for data in source:
            noting(data)
            await sink.send(data)
