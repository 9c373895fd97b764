"""Watching a job over cuts: events in order, each once, from the last one seen.

Above: Client. Below: one gRPC stream at a time.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

import grpc
from perstack.v1 import jobs_pb2

from perstackctl.client import convert
from perstackctl.client.errors import ClientError, ConnectionLostError, UnreachableError
from perstackctl.client.values import Batch

JOB_FINISHED: Final = "jobFinished"
_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 1.0


OnCut: TypeAlias = Callable[[ClientError, int], None]


class Stream(Protocol):
    """A call that answers with batches."""

    def __aiter__(self) -> AsyncIterator[jobs_pb2.WatchJobResponse]: ...

    def cancel(self) -> bool: ...


@dataclass(slots=True)
class Patience:
    """How long a watch goes without anything new before it gives up, and how long to wait before each try."""

    seconds: float
    _since: float | None = None
    _delay: float = _FIRST_DELAY

    def reset(self) -> None:
        """Something new came."""
        self._since, self._delay = None, _FIRST_DELAY

    def next_delay(self, now: float) -> float | None:
        """Seconds to wait before the next try, or None when it is time to give up."""
        self._since = now if self._since is None else self._since
        left = self._since + self.seconds - now
        if left <= 0:
            return None
        delay, self._delay = self._delay, min(self._delay * 2, _LONGEST_DELAY)
        return min(delay, left)


@dataclass(slots=True)
class Watch:
    """One job being watched. `open_stream` starts a stream after a sequence number; `explain` says why it broke. The
    `first` stream is open already.

    `on_cut` is told of each break that is about to be mended, with the last sequence number seen.
    """

    job_id: str
    last_seq: int
    open_stream: Callable[[int], Stream]
    explain: Callable[[grpc.aio.AioRpcError], Awaitable[ClientError]]
    patience: Patience
    on_cut: OnCut | None = None
    first: Stream | None = None
    _finished: bool = field(default=False, init=False)

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """What is new, in order, without gap or repeat. Ends after `jobFinished`, or when the daemon ends it.

        Raises:
            ConnectionLostError: the daemon was away for longer than the patience.
            ClientError: whatever trying again does not mend.
        """
        while True:
            try:
                async with aclosing(self._stream()) as stream:
                    async for batch in stream:
                        yield batch
                if self._finished:
                    return
            except _GapError as gap:
                failure: ClientError = gap
            except grpc.aio.AioRpcError as error:
                failure = await self.explain(error)
                if not _mendable(error, failure):
                    raise failure from None
            else:
                return
            await self._wait(failure)

    async def _stream(self) -> AsyncGenerator[Batch, None]:
        call, self.first = self.first or self.open_stream(self.last_seq), None
        try:
            async for message in call:
                batch = self._new(convert.batch(message))
                if batch.events or batch.pieces:
                    self.patience.reset()
                    yield batch
                if self._finished:
                    return
        finally:
            call.cancel()

    def _new(self, batch: Batch) -> Batch:
        fresh = []
        for event in batch.events:
            if event.seq <= self.last_seq:
                continue
            if event.seq != self.last_seq + 1:
                raise _GapError(f"the daemon left out events after {self.last_seq} of job {self.job_id}")
            self.last_seq = event.seq
            fresh.append(event)
            self._finished = self._finished or event.type == JOB_FINISHED
        return Batch(tuple(fresh), batch.pieces)

    async def _wait(self, failure: ClientError) -> None:
        delay = self.patience.next_delay(time.monotonic())
        if delay is None:
            raise ConnectionLostError(failure.message, last_seq=self.last_seq) from None
        if self.on_cut is not None:
            self.on_cut(failure, self.last_seq)
        await asyncio.sleep(delay)


class _GapError(ClientError):
    """Events are missing in a stream: read again from the last one that was in order."""

    default_reason = "watch_gap"


def _mendable(error: grpc.aio.AioRpcError, failure: ClientError) -> bool:
    match error.code():
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return True
        case grpc.StatusCode.ABORTED:
            return failure.reason == "watch_cut"
        case _:
            return isinstance(failure, UnreachableError)
