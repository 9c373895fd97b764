"""One connection to a sandbox's socket: bounded frames in, orders out, and how fast the sandbox may talk."""

import asyncio
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from perstack.v1 import runner_pb2 as pb
from perstack.v1.frames import FrameTooLargeError, frame, read_frame

from perstackd.domain.rate import Bucket, full
from perstackd.ports.clock import Clock
from perstackd.rpc.runner_convert import MalformedError

STOP_SECONDS: Final = 0.2
READ_BYTES: Final = 64 << 10
"""Read ahead of what was asked for; past twice that the socket is left alone."""
UNREAD_BYTES: Final = 32 << 20
"""Orders that wait for a sandbox to read them; a single one is at most half of that."""


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


class _Connection(StreamReaderProtocol):
    """A loss is an end: a reset (a program that died with orders unread) must not hide what came before it."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(None)


def connection(serve: Callable[[StreamReader, StreamWriter], Awaitable[None]]) -> asyncio.BaseProtocol:
    """The protocol of one connection, which `serve` reads and writes."""
    return _Connection(StreamReader(READ_BYTES), serve)


class RunnerStream:
    """One connection. What is not read stays in the kernel, which holds the sender back."""

    def __init__(self, reader: StreamReader, writer: StreamWriter, message_bytes: int) -> None:
        self._reader = reader
        self._writer = writer
        self._most = message_bytes

    async def read(self) -> tuple[pb.FromRunner, int] | None:
        """The next message and its size in bytes; None at the end. Raises MalformedError."""
        try:
            data = await read_frame(self._reader, self._most)
            return None if data is None else (pb.FromRunner.FromString(data), len(data))
        except FrameTooLargeError as error:
            raise MalformedError(str(error)) from error
        except DecodeError as error:
            raise MalformedError("not a message") from error

    def write(self, *messages: pb.ToRunner) -> bool:
        """Hand orders over, in one piece. False when so much waits already that nobody seems to read."""
        transport = self._writer.transport
        if transport.get_write_buffer_size() > UNREAD_BYTES:
            return False
        self._writer.write(b"".join(map(frame, messages)))
        return True

    def reject(self, reason: str) -> None:
        """Tell why there is no welcome, and end."""
        self.write(pb.ToRunner(rejected=pb.Rejected(reason=reason)))
        self.end()

    def end(self) -> None:
        """Close once everything is written, or after STOP_SECONDS. Idempotent."""
        if not self._writer.is_closing():
            self._writer.close()
            asyncio.get_running_loop().call_later(STOP_SECONDS, self._writer.transport.abort)


class Throttle:
    """Makes the reader wait, so that the socket's buffer holds the sender back."""

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
            self._since = None
            return
        self._since = now if self._since is None else self._since
        if now - self._since > self._patience:
            raise FloodedError(f"the sandbox sent more than it may for {self._patience:g} s")
        await asyncio.sleep(wait)
