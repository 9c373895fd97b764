"""The stream to the daemon: opened, lost, opened again; numbered messages that are kept until they are stored there.

One owner runs run() until close(); everybody else only queues. Order at the end: close() stops the queue, run()
returns, the channel is closed. The session token lives in this object and nowhere else.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

import grpc
import grpc.aio
from perstack.v1 import runner_pb2 as pb
from perstack.v1 import runner_pb2_grpc

from perstack_runner.convert import ask_to_pb, hello_to_pb, order_from_pb
from perstack_runner.log import log
from perstack_runner.messages import Acknowledged, Ask, Hello, NextTurn, Order, Progress, Turn, Welcome

WELCOME_SECONDS: Final = 10.0
FIRST_DELAY: Final = 0.05
LONGEST_DELAY: Final = 0.25
LATER_SECONDS: Final = 60.0
LATER_DELAY: Final = 2.0
"""Tries are rarer when the daemon has been away for so long: well below what it waits for runners to come back."""
ABSENCE_SECONDS: Final = 3600.0
"""How long a daemon may stay away, an upgrade included, before the runner gives up."""
MAX_REJECTIONS: Final = 40
MAX_PROGRESS: Final = 64
"""Waiting messages beyond which progress is dropped."""
_REJECTED: Final = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 2 << 20),
    ("grpc.enable_http_proxy", 0),
    ("grpc.default_authority", "localhost"),
)


class LinkGone(Exception):  # noqa: N818 - the end of a session, as the daemon wanted it
    """The daemon does not take this runner back, or stayed away too long."""


class Link:
    """The runner's side of a session. `deliver` is called on the loop, in order, once per order."""

    def __init__(self, socket_path: str, hello: Hello, deliver: Callable[[Order], None]) -> None:
        self._target = f"unix:{socket_path}"
        self._hello = hello
        self._deliver = deliver
        self._token = ""
        self._counter = 0
        self._kept: deque[pb.FromRunner] = deque()
        self._outbox: deque[pb.FromRunner] = deque()
        self._question: pb.FromRunner | None = None
        self._wake = asyncio.Event()
        self._sent = asyncio.Event()
        self._open = False
        self._closed = False

    def send(self, ask: Ask) -> None:
        """Queue a message that must arrive; what is legal now is the caller's care. Raises ValueError, as convert."""
        self._counter += 1
        message = ask_to_pb(ask, self._counter)
        self._kept.append(message)
        if isinstance(ask, NextTurn):
            self._question = message
        self._queue(message)

    def offer(self, progress: Progress) -> None:
        """Queue progress, or drop it when the stream is slow or gone."""
        if self._open and len(self._outbox) < MAX_PROGRESS:
            self._queue(ask_to_pb(progress, 0))

    def _queue(self, message: pb.FromRunner) -> None:
        if self._open:
            self._outbox.append(message)
            self._sent.clear()
            self._wake.set()

    async def flush(self, seconds: float) -> None:
        """Wait until what is queued was handed to the stream, at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._sent.wait()
        except TimeoutError:
            log("the last messages could not be sent in time")

    def close(self) -> None:
        """Let run() return. Idempotent."""
        self._closed = True
        self._wake.set()

    async def run(self) -> None:
        """Keep a stream open until close(). Raises LinkGone."""
        loop = asyncio.get_running_loop()
        delay, last_seen, rejections = FIRST_DELAY, loop.time(), 0
        async with grpc.aio.insecure_channel(self._target, options=_OPTIONS) as channel:
            stub = runner_pb2_grpc.RunnerServiceStub(channel)
            while not self._closed:
                code, welcomed = await self._attach(stub)
                rejections = rejections + 1 if code in _REJECTED else 0
                if welcomed:
                    delay, last_seen = FIRST_DELAY, loop.time()
                if rejections >= MAX_REJECTIONS or loop.time() - last_seen > ABSENCE_SECONDS:
                    raise LinkGone(f"no session with the daemon any more ({code})")
                if not self._closed:
                    await asyncio.sleep(delay)
                    longest = LONGEST_DELAY if loop.time() - last_seen < LATER_SECONDS else LATER_DELAY
                    delay = min(delay * 2, longest)

    async def _attach(self, stub: "runner_pb2_grpc.RunnerServiceAsyncStub") -> tuple[grpc.StatusCode | None, bool]:
        """One stream from Hello to its end: its status, and whether there was a welcome."""
        call = stub.Attach(wait_for_ready=self._token == "")
        welcomed = False
        try:
            await call.write(hello_to_pb(self._hello, self._token))
            async with asyncio.timeout(WELCOME_SECONDS):
                first = await call.read()
            order = order_from_pb(first) if isinstance(first, pb.ToRunner) else None
            if isinstance(order, Welcome):
                welcomed = True
                self._welcome(order)
                await self._converse(call)
            if self._closed:
                return None, welcomed
            return (await call.code() if call.done() else None), welcomed
        except (grpc.RpcError, asyncio.InvalidStateError, TimeoutError):
            return (await call.code() if call.done() else None), welcomed
        finally:
            self._open = False
            call.cancel()

    def _welcome(self, welcome: Welcome) -> None:
        self._token = welcome.session_token or self._token
        self._forget(welcome.acknowledged)
        self._outbox.clear()
        question = self._question
        if question is not None and (not self._kept or self._kept[0].counter > question.counter):
            # Stored, but its turn never came. A repeat is dropped there, and shows who is still waiting.
            self._outbox.append(question)
        self._outbox.extend(self._kept)
        self._open = True
        self._wake.set()
        self._deliver(welcome)

    def _forget(self, counter: int) -> None:
        while self._kept and self._kept[0].counter <= counter:
            self._kept.popleft()

    async def _converse(self, call: "grpc.aio.StreamStreamCall[pb.FromRunner, pb.ToRunner]") -> None:
        """Read and write until the stream ends or the link is closed."""
        async with asyncio.TaskGroup() as both:
            reading = both.create_task(self._read(call))
            writing = both.create_task(self._write(call))
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            self._open = False
            reading.cancel()
            writing.cancel()

    async def _read(self, call: "grpc.aio.StreamStreamCall[pb.FromRunner, pb.ToRunner]") -> None:
        try:
            while isinstance(message := await call.read(), pb.ToRunner):
                self._take(order_from_pb(message))
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the stream is gone; _attach reads its status

    def _take(self, order: Order | None) -> None:
        match order:
            case None:
                log("an order of a kind that this runner does not know was left out")
            case Acknowledged(counter=counter):
                self._forget(counter)
            case Turn():
                self._question = None
                self._deliver(order)
            case _:
                self._deliver(order)

    async def _write(self, call: "grpc.aio.StreamStreamCall[pb.FromRunner, pb.ToRunner]") -> None:
        try:
            while not (self._closed and not self._outbox):
                while self._outbox:
                    await call.write(self._outbox.popleft())
                self._sent.set()
                self._wake.clear()
                if not self._closed:
                    await self._wake.wait()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return
