"""A job that is made and watched in one call."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

import grpc.aio
from perstack.v1 import jobs_pb2

from perstackctl.client import convert
from perstackctl.client.calling import Call
from perstackctl.client.errors import ProtocolError
from perstackctl.client.values import Batch, CreatedJob
from perstackctl.client.watch import OnCut, Stream


class _Watching(Protocol):
    def __call__(self, *, on_cut: OnCut | None) -> AsyncGenerator[Batch, None]: ...


@dataclass(frozen=True, slots=True)
class RunningJob:
    """The job as it was made, durable by now."""

    created: CreatedJob
    _watch: _Watching

    def batches(self, on_cut: OnCut | None = None) -> AsyncGenerator[Batch, None]:
        """What comes of it, as `Client.watch_job` gives it from the first event on. Called once; closed (`aclosing`) by
        whoever leaves early, the job goes on.
        """
        return self._watch(on_cut=on_cut)


class _Rest:
    """A RunJob call after its first reply."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def __aiter__(self) -> AsyncIterator[jobs_pb2.WatchJobResponse]:
        while (reply := await self._call.read()) is not grpc.aio.EOF:
            yield reply.watched

    def cancel(self) -> bool:
        return bool(self._call.cancel())


async def begun(method: Any, message: jobs_pb2.RunJobRequest, call: Call, *, repeat: bool) -> tuple[Stream, CreatedJob]:
    """Open the stream and read its first reply, in the time of a call. Raises as `call` does."""

    async def first(request: object, *, timeout: float) -> tuple[Any, Any]:  # noqa: ASYNC109 - as gRPC's methods
        stream = method(request)  # without a deadline: a job may take hours
        try:
            async with asyncio.timeout(timeout):
                return stream, await stream.read()
        except TimeoutError:
            stream.cancel()
            raise late(timeout) from None
        except BaseException:
            stream.cancel()
            raise

    stream, reply = await call(first, message, repeat=repeat)
    if reply is grpc.aio.EOF:
        raise ProtocolError("the daemon ended the call without an answer; it may be of another version")
    return _Rest(stream), convert.created(reply.created)


def late(seconds: float) -> grpc.aio.AioRpcError:
    """What gRPC raises for a call that was not answered in time."""
    nothing, details = grpc.aio.Metadata(), f"no answer within {seconds:g} s"
    return grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, nothing, nothing, details)
