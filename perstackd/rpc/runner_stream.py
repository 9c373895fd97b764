"""One connection to a sandbox's socket: bounded frames in, orders out, and how fast the sandbox may talk."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

from google.protobuf.message import DecodeError
from perstack.v1 import runner_pb2 as pb
from perstack.v1.frames import LENGTH, FrameTooLargeError, frame, read_frame

from perstackd.domain.rate import Bucket, full
from perstackd.ports.clock import Clock
from perstackd.rpc.runner_convert import MalformedError

STOP_SECONDS: Final = 0.2
READ_BYTES: Final = 64 << 10
"""Read ahead of a message; past that the socket is left alone."""
RESCUED_PIECES: Final = 16  # more than a socket's buffer holds
HTTP2_PREFACE: Final = b"PRI "
UNREAD_BYTES: Final = 32 << 20
"""Orders that wait for a sandbox to read them."""


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """What one sandbox may send. Bursts let a run of quick steps through; the rates hold over time."""

    message_bytes: int = 1 << 20
    messages_per_second: float = 200
    messages_burst: float = 2000
    bytes_per_second: float = 8 << 20
    bytes_burst: float = 32 << 20
    throttled_seconds: float = 60


class FloodedError(Exception):
    """The sandbox talked faster than it may for too long."""


class RunnerStream(asyncio.Protocol):
    """One connection, given to `accept` when it is made. What is not read stays in the kernel, which holds the sender
    back. Not asyncio's own stream: that takes a reset for an error that hides what came before it.
    """

    def __init__(self, message_bytes: int, accept: "Callable[[RunnerStream], None]") -> None:
        self._most = message_bytes
        self._accept = accept
        self._reader = asyncio.StreamReader()
        self._held = 0
        self._paused = False
        self._gone = asyncio.Event()
        self._transport: asyncio.Transport

    # --- of the event loop ------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._accept(self)

    def data_received(self, data: bytes) -> None:
        self._keep(data)
        if self._held > self._most + READ_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:  # of a write, or a reset: what the program said before it died may still be there
            self._rescue()
        self._reader.feed_eof()
        self._gone.set()

    def _rescue(self) -> None:
        with suppress(OSError):
            for _ in range(RESCUED_PIECES):
                data = os.read(self._transport.get_extra_info("socket").fileno(), READ_BYTES)
                if not data:
                    return
                self._keep(data)

    def _keep(self, data: bytes) -> None:
        self._held += len(data)
        self._reader.feed_data(data)

    # --- of the link ------------------------------------------------------------------------------------------------
    async def read(self) -> tuple[pb.FromRunner, int] | None:
        """The next message and its size in bytes; None at the end. Raises MalformedError."""
        try:
            data = await read_frame(self._reader, self._most)
            if data is None:
                return None
            self._made_room(LENGTH.size + len(data))
            return pb.FromRunner.FromString(data), len(data)
        except FrameTooLargeError as error:
            older = error.size == int.from_bytes(HTTP2_PREFACE)
            raise MalformedError("its runner speaks gRPC: make images" if older else str(error)) from error
        except DecodeError as error:
            raise MalformedError("not a message") from error

    def _made_room(self, size: int) -> None:
        self._held -= size
        if self._paused and self._held <= self._most + LENGTH.size:  # a message that is there in part is less than that
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def write(self, *messages: pb.ToRunner) -> bool:
        """Hand orders over, in one piece. False when too much waits already; true when nobody is there any more, which
        the reader is told.
        """
        if self._transport.is_closing():
            return True
        data = b"".join(map(frame, messages))
        if self._transport.get_write_buffer_size() + len(data) > UNREAD_BYTES:
            return False
        self._transport.write(data)
        return True

    def reject(self, reason: str) -> None:
        """Tell why there is no welcome, and end."""
        self.write(pb.ToRunner(rejected=pb.Rejected(reason=reason)))
        self.end()

    def end(self) -> None:
        """Close once everything is written, or after STOP_SECONDS. Idempotent."""
        if not self._transport.is_closing():
            self._transport.close()
            asyncio.get_running_loop().call_later(STOP_SECONDS, self._transport.abort)

    async def gone(self) -> None:
        """Until the connection is closed, which `end` sees to."""
        await self._gone.wait()


class Throttle:
    """Makes the reader wait, so that the socket's buffer holds the sender back. A sender is under pressure until it has
    paused long enough: a sleep that lasted a little too long lets a message through at once, and proves nothing.
    """

    def __init__(self, limits: LinkLimits, clock: Clock) -> None:
        now = clock.monotonic()
        self._clock = clock
        self._patience = limits.throttled_seconds
        self._messages: Bucket = full(limits.messages_per_second, limits.messages_burst, now)
        self._bytes: Bucket = full(limits.bytes_per_second, limits.bytes_burst, now)
        self._since: float | None = None

    async def admit(self, size: int) -> None:
        """Wait until a message of `size` bytes fits. Raises FloodedError after too long under pressure."""
        now = self._clock.monotonic()
        self._messages, first = self._messages.taken(1, now)
        self._bytes, second = self._bytes.taken(size, now)
        wait = max(first, second)
        if not wait:
            if self._messages.recovered(1) and self._bytes.recovered(size):
                self._since = None
            return
        self._since = now if self._since is None else self._since
        if now - self._since > self._patience:
            raise FloodedError(f"the sandbox sent more than it may for {self._patience:g} s")
        await asyncio.sleep(wait)
