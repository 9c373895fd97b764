"""A stream of requests with one answer, which may come before all of them were sent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc.aio


async def send_all(call: "grpc.aio.StreamUnaryCall[Any, Any]", requests: AsyncIterator[Any]) -> Any:
    """Write every request, and return the answer. `requests` is at rest on return, also after a refusal in the middle:
    where gRPC itself is given the iterator, it may still be inside of it then, and nobody can close it.

    Raises:
        grpc.aio.AioRpcError: the daemon refused. What `requests` raises cancels the call, and goes through.
    """
    sending = asyncio.create_task(_write(call, requests), name="send-requests")

    def answered(_: object) -> None:
        sending.cancel()

    call.add_done_callback(answered)
    try:
        await asyncio.wait((sending,))
    finally:
        if not sending.done():  # we are cancelled ourselves
            call.cancel()
            sending.cancel()
            await asyncio.wait((sending,))
    if not sending.cancelled() and (failure := sending.exception()) is not None:
        call.cancel()
        raise failure
    return await call


async def _write(call: "grpc.aio.StreamUnaryCall[Any, Any]", requests: AsyncIterator[Any]) -> None:
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it has ended: the answer says how
        async for request in requests:
            await call.write(request)
        await call.done_writing()
