"""The connection to the daemon: opened, lost, opened again; messages have numbers, and are kept until they are stored.

One owner runs run() until close(); everybody else only queues. Order at the end: close() stops the queue, run() closes
the connection and returns. The session token lives in this object and nowhere else.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from perstack.v1 import runner_pb2 as pb
from perstack.v1.frames import FrameTooLargeError, frame, read_frame

from perstack_runner.convert import ask_to_pb, hello_to_pb, order_from_pb
from perstack_runner.log import log
from perstack_runner.messages import Acknowledged, Ask, Hello, NextTurn, Order, Progress, Rejected, Turn, Welcome

WELCOME_SECONDS: Final = 10.0
FIRST_DELAY: Final = 0.05
LONGEST_DELAY: Final = 0.25
LATER_SECONDS: Final = 60.0
LATER_DELAY: Final = 2.0
"""Tries are rarer when the daemon has been away for so long: well below what it waits for runners to come back."""
ABSENCE_SECONDS: Final = 3600.0
"""How long a daemon may stay away, an upgrade included, before the runner gives up."""
MAX_REJECTIONS: Final = 40
READ_BYTES: Final = 64 << 10
MAX_PROGRESS: Final = 64
"""Waiting messages beyond which progress is dropped."""
MAX_ORDER_BYTES: Final = 16 << 20


class LinkGone(Exception):  # noqa: N818 - the end of a session, as the daemon wanted it
    """The daemon does not take this runner back, or stayed away too long."""


class Link:
    """The runner's side of a session. `deliver` is called on the loop, in order, once per order."""

    def __init__(self, socket_path: str, hello: Hello, deliver: Callable[[Order], None]) -> None:
        self._socket_path = socket_path
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
        self._sent.clear()  # also while the daemon is away
        if isinstance(ask, NextTurn):
            self._question = message
        self._queue(message)

    def offer(self, progress: Progress) -> None:
        """Queue progress, or drop it when the daemon reads slowly or is gone."""
        if self._open and len(self._outbox) < MAX_PROGRESS:
            self._queue(ask_to_pb(progress, 0))

    def _queue(self, message: pb.FromRunner) -> None:
        if self._open:
            self._outbox.append(message)
            self._wake.set()

    async def flush(self, seconds: float) -> None:
        """Wait until what is queued was handed to the kernel, at most `seconds`."""
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
        """Keep a connection open until close(). Raises LinkGone."""
        loop = asyncio.get_running_loop()
        delay, last_seen, rejections = FIRST_DELAY, loop.time(), 0
        while not self._closed:
            answer = await self._attach()
            rejections = rejections + 1 if isinstance(answer, Rejected) else 0
            if isinstance(answer, Welcome):
                delay, last_seen = FIRST_DELAY, loop.time()
            if rejections >= MAX_REJECTIONS or loop.time() - last_seen > ABSENCE_SECONDS:
                why = f": {answer.reason}" if isinstance(answer, Rejected) else ""
                raise LinkGone(f"no session with the daemon any more{why}")
            if not self._closed:
                await asyncio.sleep(delay)
                longest = LONGEST_DELAY if loop.time() - last_seen < LATER_SECONDS else LATER_DELAY
                delay = min(delay * 2, longest)

    async def _attach(self) -> Order | None:
        """One connection from Hello to its end; what answered the Hello, None when nothing did."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket_path, limit=READ_BYTES)
        except OSError:
            return None
        writer.transport.set_write_buffer_limits(0)  # what was drained is in the kernel
        try:
            writer.write(frame(hello_to_pb(self._hello, self._token)))
            async with asyncio.timeout(WELCOME_SECONDS):
                answer = await self._next(reader)
            if isinstance(answer, Welcome):
                self._welcome(answer)
                await self._converse(reader, writer)
        except TimeoutError:
            return None
        else:
            return answer
        finally:
            self._open = False
            writer.close()

    async def _next(self, reader: asyncio.StreamReader) -> Order | None:
        """The next order of a kind that is known, None at the end of the stream."""
        while (data := await self._frame(reader)) is not None:
            order = order_from_pb(pb.ToRunner.FromString(data))
            if order is not None:
                return order
            log("an order of a kind that this runner does not know was left out")
        return None

    async def _frame(self, reader: asyncio.StreamReader) -> bytes | None:
        try:
            return await read_frame(reader, MAX_ORDER_BYTES)
        except FrameTooLargeError as error:
            log(f"the daemon is left: {error}")
            return None

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

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read and write until the stream ends or the link is closed."""
        async with asyncio.TaskGroup() as both:
            reading = both.create_task(self._read(reader))
            writing = both.create_task(self._write(writer))
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            self._open = False
            reading.cancel()
            writing.cancel()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while (order := await self._next(reader)) is not None:
            self._take(order)

    def _take(self, order: Order) -> None:
        match order:
            case Acknowledged(counter=counter):
                self._forget(counter)
            case Turn():
                self._question = None
                self._deliver(order)
            case _:
                self._deliver(order)

    async def _write(self, writer: asyncio.StreamWriter) -> None:
        try:
            while not (self._closed and not self._outbox):
                while self._outbox:
                    writer.write(frame(self._outbox.popleft()))
                    await writer.drain()
                self._sent.set()
                self._wake.clear()
                if not self._closed:
                    await self._wake.wait()
        except OSError:  # not only of a connection that is gone: ENOBUFS as well
            return
