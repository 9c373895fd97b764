"""A job that is made and watched in one call."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol

import grpc.aio
from perstack.v1 import jobs_pb2

from perstackctl.client import convert
from perstackctl.client.calling import Call
from perstackctl.client.errors import ProtocolError
from perstackctl.client.values import Batch, CreatedJob
from perstackctl.client.watch import OnCut, Stream


class _Watching(Protocol):
    def __call__(self, *, on_cut: OnCut | None, first: Stream | None) -> AsyncGenerator[Batch, None]: ...


class RunningJob:
    """The job as it was made, durable by now, and the call that made it, which is open until `batches` has ended."""

    def __init__(self, created: CreatedJob, opened: Stream, watch: _Watching) -> None:
        self.created = created
        self._opened: Stream | None = opened
        self._watch = watch

    def batches(self, on_cut: OnCut | None = None) -> AsyncGenerator[Batch, None]:
        """What comes of it, as `Client.watch_job` gives it from the first event on, again with each call. Closed
        (`aclosing`) by whoever leaves early; the job goes on.
        """
        first, self._opened = self._opened, None
        return self._watch(on_cut=on_cut, first=first)


class _Rest:
    """A RunJob call after its first reply. The replies are read by one iterator: `read` of a call that has ended says
    so though some of them are still to be read.
    """

    def __init__(self, call: Any) -> None:
        self._call = call
        self._replies: AsyncIterator[jobs_pb2.RunJobResponse] = aiter(call)

    async def first(self) -> jobs_pb2.RunJobResponse | None:
        return await anext(self._replies, None)

    async def __aiter__(self) -> AsyncIterator[jobs_pb2.WatchJobResponse]:
        async for reply in self._replies:
            yield reply.watched

    def cancel(self) -> bool:
        return bool(self._call.cancel())


async def begun(method: Any, message: jobs_pb2.RunJobRequest, call: Call, *, repeat: bool) -> tuple[Stream, CreatedJob]:
    """Open the stream and read its first reply, in the time of a call. Raises as `call` does."""

    async def first(request: object, *, timeout: float) -> tuple[_Rest, Any]:  # noqa: ASYNC109 - as gRPC's methods
        opened = _Rest(method(request))  # without a deadline: a job may take hours
        try:
            async with asyncio.timeout(timeout):
                return opened, await opened.first()
        except TimeoutError:
            opened.cancel()
            raise late(timeout) from None
        except BaseException:
            opened.cancel()
            raise

    opened, reply = await call(first, message, repeat=repeat)
    if reply is None or not reply.HasField("created"):
        opened.cancel()
        raise ProtocolError("the daemon did not say first which job it made; it may be of another version")
    return opened, convert.created(reply.created)


def late(seconds: float) -> grpc.aio.AioRpcError:
    """What gRPC raises for a call that was not answered in time."""
    nothing, details = grpc.aio.Metadata(), f"no answer within {seconds:g} s"
    return grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, nothing, nothing, details)
