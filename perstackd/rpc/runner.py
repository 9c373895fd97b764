"""The link into a sandbox: one socket per sandbox, one connection to it, frames of protobuf in both directions.

The first connection is the runner's; after a restart of the daemon it is the one that presents the session's token.
Then the socket is closed and unlinked, so that nobody else inside can dial. Not gRPC, because the other end is hostile:
what parses its bytes beside all the secrets is a length and a bounded message, not an HTTP/2 stack; and it takes less
time and less memory in each sandbox (docs/design/architecture.md). Above are the pool and the run workers. Everything
that comes up is bounded: message size by the frame's length, rate by a token bucket (past it the daemon stops reading),
content by `runner_convert`. Shutdown order: connection, socket.
"""

import asyncio
import hashlib
import hmac
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from perstack.v1 import runner_pb2 as pb

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.session import Ask, Failure, Hello, LinkLost, Order
from perstackd.ports.clock import Clock
from perstackd.rpc import runner_convert
from perstackd.rpc.runner_stream import STOP_SECONDS, FloodedError, LinkLimits, RunnerStream, Throttle
from perstackd.version import RUNNER_PROTOCOL

MAX_PATH: Final = 107  # sun_path holds 108 bytes with its NUL, see unix(7)
BACKLOG: Final = 8
HELLO_SECONDS: Final = 10.0
ASKS_WAITING: Final = 64
UNREAD_BYTES: Final = 4 << 20
"""Asks that nobody took yet, as they came; as objects they may be some ten times as large."""
ORDERS_WAITING: Final = 256
ACKNOWLEDGE_EVERY: Final = 32
MAX_TRIES: Final = 8
"""Connections that may ask to go on with a session; an honest runner needs one, so past that nobody gets it."""
EVERYTHING: Final = (1 << 64) - 1
"""The counter that the welcome of an idle runner's resumed session acknowledges. It has sent answers to probes and
nothing else; who waited for them is gone, and repeated they would be taken for answers to the probes of now."""

_log = structlog.get_logger()


class SocketRunnerLinks:
    """Makes links. Needs a running event loop."""

    def __init__(self, clock: Clock, limits: LinkLimits | None = None) -> None:
        self._clock = clock
        self._limits = limits or LinkLimits()

    async def listen(
        self, sandbox_id: SandboxId, path: str, token_hash: str = "", *, repeats: bool = False
    ) -> "SocketRunnerLink":
        """As the port says. Raises PerstackError INVALID `socket_path_too_long`; UNAVAILABLE `socket_failed`."""
        if len(path.encode()) > MAX_PATH:
            message = f"the socket path {path} is longer than {MAX_PATH} bytes; choose a shorter runtime_directory"
            raise PerstackError(Kind.INVALID, "socket_path_too_long", message)
        link = SocketRunnerLink(sandbox_id, path, self._limits, self._clock, Resumed(token_hash, repeats))
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


class SocketRunnerLink:
    """One sandbox's session, from its first connection to the end of it."""

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
        self._throttle = Throttle(limits, clock)
        self._asks: asyncio.Queue[tuple[int, Ask, int]] = asyncio.Queue(ASKS_WAITING)
        self._unread = 0
        self._room = asyncio.Event()
        self._early: list[pb.ToRunner] = []
        self._greeted: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], RunnerStream] = {}
        self._stream: RunnerStream | None = None
        self._taken = False
        self._lost = ""
        self._seen = self._read = self._stored = self._acknowledged = 0

    async def start(self) -> None:
        """Bind and listen; the directory is this sandbox's alone, so the socket may be open to its uid."""
        try:
            bound = await asyncio.to_thread(_bound, self._path)
            self._server = await self._listening(bound)
        except OSError as error:
            message = f"the socket {self._path} could not be made: {error}"
            raise PerstackError(Kind.UNAVAILABLE, "socket_failed", message) from error

    async def _listening(self, bound: socket.socket) -> asyncio.Server:
        loop, most = asyncio.get_running_loop(), self._limits.message_bytes
        try:
            return await loop.create_unix_server(lambda: RunnerStream(most, self._accept), sock=bound, backlog=BACKLOG)
        except BaseException:
            bound.close()
            raise

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
        if not self._give(runner_convert.order(order)):
            message = f"the sandbox {self._sandbox_id} does not read its orders"
            raise PerstackError(Kind.UNAVAILABLE, "link_lost", message)

    def _give(self, *messages: pb.ToRunner) -> bool:
        """Orders, then what they let the runner forget: what an ask led to is there before it is forgotten. When they
        cannot go the link is lost: an order that is lost in silence would be waited for.
        """
        if self._stream is None:
            self._early += messages
            given = len(self._early) <= ORDERS_WAITING
        else:
            if self._stored > self._acknowledged:
                self._acknowledged = self._stored
                messages = (*messages, pb.ToRunner(ack=pb.Ack(counter=self._stored)))
            given = self._stream.write(*messages)
        if not given:
            self._lose("it does not read its orders")
        return given

    async def asks(self) -> AsyncIterator[Ask]:
        """As the port says."""
        while True:
            counter, ask, size = await self._asks.get()
            self._unread -= size
            self._room.set()
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
            self._give()

    async def close(self) -> None:
        """As the port says."""
        self._lose("closed")
        ending = dict(self._connections)
        for task in ending:
            task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * STOP_SECONDS):
                for stream in ending.values():
                    await stream.gone()
        await self._hide()

    # --- the connection ---------------------------------------------------------------------------------------------
    def _accept(self, stream: RunnerStream) -> None:
        """A new connection gets a task of its own, which `close` ends."""
        if self._lost:
            stream.end()
            return
        task = asyncio.get_running_loop().create_task(self._serve(stream))
        self._connections[task] = stream
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        """Also of one that was cancelled before its first step."""
        self._connections.pop(task).end()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("connection of a sandbox failed", sandbox_id=self._sandbox_id, error=type(error).__name__)
            self._lose(f"the daemon failed at it: {type(error).__name__}")

    async def _serve(self, stream: RunnerStream) -> None:
        try:
            first = await self._recognised(stream) if self._expected_hash and not self._taken else None
            if self._taken:
                raise _RejectedError("this sandbox has its runner")
            await self._attach(stream, first)
        except _RejectedError as error:
            stream.reject(str(error))

    async def _attach(self, stream: RunnerStream, first: pb.FromRunner | None) -> None:
        """The runner's connection. Any other one is rejected."""
        self._taken = True  # no await since the check
        why = "the stream ended"
        try:
            if await self._greet(stream, first):
                await self._listen(stream)
        except runner_convert.MalformedError as error:
            why = f"malformed: {error}"
        except FloodedError as error:
            why = str(error)
        except TimeoutError:
            why = f"it said nothing for {HELLO_SECONDS:g} s"
        finally:
            self._lose(why)

    async def _recognised(self, stream: RunnerStream) -> pb.FromRunner:
        """The hello of who has the session's token. Raises _RejectedError for anybody else."""
        self._tries += 1
        if self._tries > MAX_TRIES:
            self._taken = True
            self._lose("its socket was dialled too often without the session's token")
            raise _RejectedError("too many tries")
        message = pb.FromRunner()
        with suppress(TimeoutError, runner_convert.MalformedError):
            async with asyncio.timeout(HELLO_SECONDS):
                came = await stream.read()
            message = came[0] if came is not None else message
        if not hmac.compare_digest(_hashed(message.hello.session_token), self._expected_hash):
            _log.warning("stream without the session's token refused", sandbox_id=self._sandbox_id, tries=self._tries)
            raise _RejectedError("this is not the session's token")
        return message

    async def _greet(self, stream: RunnerStream, first: pb.FromRunner | None) -> bool:
        """Whether there was a hello that could be welcomed."""
        if first is None:
            async with asyncio.timeout(HELLO_SECONDS):
                came = await stream.read()
            if came is None:
                return False
            first, _ = came
        hello = runner_convert.ask(first)
        if not isinstance(hello, Hello):
            raise runner_convert.MalformedError("the first message is not a hello")
        if hello.protocol_version not in (RUNNER_PROTOCOL, RUNNER_PROTOCOL - 1):
            problem = f"the runner speaks protocol {hello.protocol_version}, this daemon {RUNNER_PROTOCOL}: make images"
            self._answer(PerstackError(Kind.PRECONDITION, "runner_protocol", problem))
            return False
        # A resumed session keeps its token: with another one, a daemon that dies before it stored the hash loses it.
        token = hello.session_token if self._expected_hash else secrets.token_hex(16)
        await self._hide()
        if self._lost:
            return False
        self.token_hash = _hashed(token)
        welcome = pb.Welcome(session_token=token, acknowledged=self._resumed.acknowledged)
        self._stream = stream
        if not stream.write(pb.ToRunner(welcome=welcome), *self._early):
            self._lose("more orders than can be sent waited for it")
            return False
        self._early.clear()
        self._answer(hello)
        return True

    async def _hide(self) -> None:
        """Nobody can dial any more. Idempotent."""
        if self._server is not None:
            self._server.close()
        await asyncio.to_thread(self._path.unlink, missing_ok=True)

    def _answer(self, outcome: Hello | PerstackError) -> None:
        if not self._greeted.done():
            if isinstance(outcome, Hello):
                self._greeted.set_result(outcome)
            else:
                self._greeted.set_exception(outcome)
                self._greeted.exception()  # read by hello(), which may not have been called yet

    async def _listen(self, stream: RunnerStream) -> None:
        while (came := await stream.read()) is not None:
            message, size = came
            await self._throttle.admit(size)
            if 0 < message.counter <= self._seen:
                continue
            self._seen = max(self._seen, message.counter)
            ask = runner_convert.ask(message)
            if isinstance(ask, Failure):
                _log.warning("runner failed", sandbox_id=self._sandbox_id, reason=ask.reason)
            while self._unread > UNREAD_BYTES:
                self._room.clear()
                await self._room.wait()
            self._unread += size
            await self._asks.put((message.counter, ask, size))

    def _lose(self, why: str) -> None:
        """Tell both sides once. The last ask must arrive even when the queue is full: the oldest unread gives way."""
        if self._lost:
            return
        self._lost = why
        unheard = f"the sandbox {self._sandbox_id} ended before it called: {why}"
        self._answer(PerstackError(Kind.TIMEOUT, "runner_silent", unheard))
        if self._asks.full():
            self._unread -= self._asks.get_nowait()[2]
        self._asks.put_nowait((0, LinkLost(why), 0))
        if self._server is not None:
            self._server.close()
        if self._stream is not None:
            self._stream.end()


class _RejectedError(Exception):
    """Who dialled is not the runner of the session."""


def _bound(path: Path) -> socket.socket:
    """A socket at the path, in place of what a killed daemon may have left there. Blocking."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        made.bind(str(path))
        path.chmod(0o666)
    except OSError:
        made.close()
        raise
    return made


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
