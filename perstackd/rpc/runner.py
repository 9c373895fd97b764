"""The link into a sandbox: one small gRPC server per sandbox on a Unix socket of its own.

The first stream is the runner's; after a restart of the daemon it is the one that presents the session's token. Then
the socket is unlinked, so that nobody else inside can dial. Below is gRPC, above are the pool and the run workers.
Everything that comes up is bounded: message size by gRPC, rate by a token bucket (past it the daemon stops reading),
content by `runner_convert`. Shutdown order: stream, server, socket.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
import grpc
import grpc.aio
import structlog
from perstack.v1 import runner_pb2 as pb
from perstack.v1 import runner_pb2_grpc

from perstackd.app.errors import single_errors
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.rate import Bucket, full
from perstackd.domain.session import Ask, Failure, Hello, LinkLost, Order
from perstackd.ports.clock import Clock
from perstackd.rpc import runner_convert
from perstackd.version import RUNNER_PROTOCOL

MAX_PATH: Final = 107  # sun_path holds 108 bytes with its NUL, see unix(7)
HELLO_SECONDS: Final = 10.0
STOP_SECONDS: Final = 0.2
ASKS_WAITING: Final = 64
ORDERS_WAITING: Final = 256
ACKNOWLEDGE_EVERY: Final = 32
MAX_TRIES: Final = 8
"""Streams that may ask to go on with a session; an honest runner needs one, so past that nobody gets it."""
EVERYTHING: Final = (1 << 64) - 1
"""The counter that the welcome of an idle runner's resumed session acknowledges. It has sent answers to probes and
nothing else; who waited for them is gone, and repeated they would be taken for answers to the probes of now."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What one sandbox may send. Bursts let a run of quick steps through; the rates hold over time."""

    message_bytes: int = 1 << 20
    streams: int = 4
    messages_per_second: float = 200
    messages_burst: float = 2000
    bytes_per_second: float = 8 << 20
    bytes_burst: float = 32 << 20
    throttled_seconds: float = 60


class GrpcRunnerLinks:
    """Makes links. Needs a running event loop."""

    def __init__(self, clock: Clock, limits: LinkLimits | None = None) -> None:
        self._clock = clock
        self._limits = limits or LinkLimits()

    async def listen(
        self, sandbox_id: SandboxId, path: str, token_hash: str = "", *, repeats: bool = False
    ) -> "GrpcRunnerLink":
        """As the port says. Raises PerstackError INVALID `socket_path_too_long`; UNAVAILABLE `socket_failed`."""
        if len(path.encode()) > MAX_PATH:
            message = f"the socket path {path} is longer than {MAX_PATH} bytes; choose a shorter runtime_directory"
            raise PerstackError(Kind.INVALID, "socket_path_too_long", message)
        link = GrpcRunnerLink(sandbox_id, path, self._limits, self._clock, Resumed(token_hash, repeats))
        await link.start()
        return link


@dataclass(frozen=True, slots=True)
class Resumed:
    """The session of an earlier daemon that goes on; without a hash there was none."""

    token_hash: str = ""
    repeats: bool = False

    @property
    def acknowledged(self) -> int:
        """What its runner may forget at once."""
        return EVERYTHING if self.token_hash and not self.repeats else 0


class GrpcRunnerLink(runner_pb2_grpc.RunnerServiceServicer):
    """One sandbox's session, from its first stream to the stream's end."""

    def __init__(
        self, sandbox_id: SandboxId, path: str, limits: LinkLimits, clock: Clock, resumed: Resumed = Resumed()
    ) -> None:
        self.token_hash = ""
        self._resumed = resumed
        self._expected_hash = resumed.token_hash
        self._tries = 0
        self._sandbox_id = sandbox_id
        self._path = Path(path)
        self._limits = limits
        self._throttle = _Throttle(limits, clock)
        self._asks: asyncio.Queue[tuple[int, Ask]] = asyncio.Queue(ASKS_WAITING)
        self._orders: asyncio.Queue[pb.ToRunner | None] = asyncio.Queue(ORDERS_WAITING)
        self._greeted: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._taken = False
        self._lost = ""
        self._seen = self._read = self._stored = self._acknowledged = 0
        self._server = grpc.aio.server(options=_options(limits))
        runner_pb2_grpc.add_RunnerServiceServicer_to_server(self, self._server)

    async def start(self) -> None:
        """Bind and listen; the directory is this sandbox's alone, so the socket may be open to its uid."""
        try:
            self._server.add_insecure_port(f"unix:{self._path}")
            await self._server.start()
            await asyncio.to_thread(self._path.chmod, 0o666)
        except (RuntimeError, OSError) as error:
            message = f"the socket {self._path} could not be made: {error}"
            raise PerstackError(Kind.UNAVAILABLE, "socket_failed", message) from error

    # --- the port ---------------------------------------------------------------------------------------------------
    async def hello(self, deadline: float) -> Hello:
        """As the port says."""
        try:
            return await asyncio.wait_for(asyncio.shield(self._greeted), deadline)
        except TimeoutError as error:
            why = "its image may not hold the runner: make images"
            message = f"the sandbox {self._sandbox_id} did not call within {deadline:g} s; {why}"
            raise PerstackError(Kind.TIMEOUT, "runner_silent", message) from error

    async def send(self, order: Order) -> None:
        """As the port says."""
        if self._lost:
            raise PerstackError(
                Kind.UNAVAILABLE, "link_lost", f"the link to sandbox {self._sandbox_id} is gone: {self._lost}"
            )
        try:
            self._orders.put_nowait(runner_convert.order(order))
        except asyncio.QueueFull as error:
            message = f"the sandbox {self._sandbox_id} does not read its orders"
            self._lose("it does not read its orders")  # an order that is lost in silence would be waited for
            raise PerstackError(Kind.UNAVAILABLE, "link_lost", message) from error

    async def asks(self) -> AsyncIterator[Ask]:
        """As the port says."""
        while True:
            counter, ask = await self._asks.get()
            self._read = max(self._read, counter)
            yield ask
            if isinstance(ask, LinkLost):
                return

    @property
    def position(self) -> int:
        """As the port says: the counter of the last ask, which repeats of progress do not have."""
        return self._read

    def acknowledge(self, position: int) -> None:
        """As the port says. Rides on the next order, or goes alone when many are due."""
        self._stored = max(self._stored, min(position, self._read))
        if self._stored - self._acknowledged >= ACKNOWLEDGE_EVERY and not self._lost:
            with suppress(asyncio.QueueFull):
                self._orders.put_nowait(pb.ToRunner(ack=pb.Ack(counter=self._stored)))
                self._acknowledged = self._stored

    async def close(self) -> None:
        """As the port says."""
        self._lose("closed")
        await self._server.stop(STOP_SECONDS)
        await asyncio.to_thread(self._path.unlink, missing_ok=True)

    # --- the stream -------------------------------------------------------------------------------------------------
    async def Attach(  # type: ignore[override] # noqa: N802 - gRPC's name; reads and writes go through the context
        self,
        request_iterator: AsyncIterator[pb.FromRunner],
        context: grpc.aio.ServicerContext[pb.FromRunner, pb.ToRunner],
    ) -> None:
        """The runner's stream. Any other one is refused."""
        first = await self._recognised(context) if self._expected_hash and not self._taken else None
        if self._taken:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this sandbox has its runner")
        self._taken = True  # no await since the check
        why = "the stream ended"
        try:
            await self._greet(context, first)
            await self._talk(context)
        except runner_convert.MalformedError as error:
            why = f"malformed: {error}"
        except _FloodedError as error:
            why = str(error)
        finally:
            self._lose(why)

    async def _recognised(self, context: Any) -> Any:
        """The hello of who has the session's token; the stream of anybody else ends here."""
        self._tries += 1
        if self._tries > MAX_TRIES:
            self._taken = True
            self._lose("its socket was dialled too often without the session's token")
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "too many tries")
        message: Any = grpc.aio.EOF
        with suppress(TimeoutError):
            message = await asyncio.wait_for(context.read(), HELLO_SECONDS)
        token = "" if message is grpc.aio.EOF else message.hello.session_token
        if not hmac.compare_digest(_hashed(token), self._expected_hash):
            _log.warning("stream without the session's token refused", sandbox_id=self._sandbox_id, tries=self._tries)
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "this is not the session's token")
        return message

    async def _greet(self, context: Any, first: Any) -> None:
        message = first or await asyncio.wait_for(context.read(), HELLO_SECONDS)
        if message is grpc.aio.EOF:
            return
        hello = runner_convert.ask(message)
        if not isinstance(hello, Hello):
            raise runner_convert.MalformedError("the first message is not a hello")
        if hello.protocol_version not in (RUNNER_PROTOCOL, RUNNER_PROTOCOL - 1):
            problem = f"the runner speaks protocol {hello.protocol_version}, this daemon {RUNNER_PROTOCOL}: make images"
            self._answer(PerstackError(Kind.PRECONDITION, "runner_protocol", problem))
            return
        # A resumed session keeps its token: with another one, a daemon that dies before it stored the hash loses it.
        token = hello.session_token if self._expected_hash else secrets.token_hex(16)
        self.token_hash = _hashed(token)
        await asyncio.to_thread(self._path.unlink, missing_ok=True)
        welcome = pb.Welcome(session_token=token, acknowledged=self._resumed.acknowledged)
        await context.write(pb.ToRunner(welcome=welcome))
        self._answer(hello)

    def _answer(self, outcome: Hello | PerstackError) -> None:
        if not self._greeted.done():
            if isinstance(outcome, Hello):
                self._greeted.set_result(outcome)
            else:
                self._greeted.set_exception(outcome)
                self._greeted.exception()  # read by hello(), which may not have been called yet

    async def _talk(self, context: Any) -> None:
        """Read until the stream ends or `_lose` is called; both directions end together."""
        async with single_errors(), anyio.create_task_group() as tasks:

            async def until_end(direction: Callable[[Any], Awaitable[None]]) -> None:
                await direction(context)
                tasks.cancel_scope.cancel()

            tasks.start_soon(until_end, self._listen)
            tasks.start_soon(until_end, self._speak)

    async def _listen(self, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await self._throttle.admit(message.ByteSize())
            if 0 < message.counter <= self._seen:
                continue
            self._seen = max(self._seen, message.counter)
            ask = runner_convert.ask(message)
            if isinstance(ask, Failure):
                _log.warning("runner failed", sandbox_id=self._sandbox_id, reason=ask.reason)
            await self._asks.put((message.counter, ask))

    async def _speak(self, context: Any) -> None:
        while (message := await self._orders.get()) is not None:
            await context.write(message)
            if self._stored > self._acknowledged:  # after the order: what an ask led to is there before it is forgotten
                self._acknowledged = self._stored
                await context.write(pb.ToRunner(ack=pb.Ack(counter=self._stored)))

    def _lose(self, why: str) -> None:
        """Tell both sides once. The last ask must arrive even when the queue is full: the oldest unread gives way."""
        if self._lost:
            return
        self._lost = why
        self._answer(
            PerstackError(Kind.TIMEOUT, "runner_silent", f"the sandbox {self._sandbox_id} ended before it called")
        )
        if self._asks.full():
            self._asks.get_nowait()
        self._asks.put_nowait((0, LinkLost(why)))
        if self._orders.full():
            self._orders.get_nowait()
        self._orders.put_nowait(None)


class _FloodedError(Exception):
    """The sandbox talked faster than it may for too long."""


class _Throttle:
    """Makes the reader wait, so that gRPC's flow control holds the sender back."""

    def __init__(self, limits: LinkLimits, clock: Clock) -> None:
        now = clock.monotonic()
        self._clock = clock
        self._patience = limits.throttled_seconds
        self._messages: Bucket = full(limits.messages_per_second, limits.messages_burst, now)
        self._bytes: Bucket = full(limits.bytes_per_second, limits.bytes_burst, now)
        self._since: float | None = None

    async def admit(self, size: int) -> None:
        """Wait until a message of `size` bytes fits. Raises _FloodedError after too long under pressure."""
        now = self._clock.monotonic()
        self._messages, first = self._messages.taken(1, now)
        self._bytes, second = self._bytes.taken(size, now)
        wait = max(first, second)
        if not wait:
            self._since = None
            return
        self._since = now if self._since is None else self._since
        if now - self._since > self._patience:
            raise _FloodedError(f"the sandbox sent more than it may for {self._patience:g} s")
        await asyncio.sleep(wait)


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _options(limits: LinkLimits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", 16 << 20),
        ("grpc.max_concurrent_streams", limits.streams),
        ("grpc.max_metadata_size", 8 << 10),
        ("grpc.so_reuseport", 0),
    ]
