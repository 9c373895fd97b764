"""A server at an endpoint, over the SDK's own transports: streamable HTTP, or the older SSE.

Order at the end: the session, then DELETE for one of streamable HTTP (1 s at most), then the connections.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, Self

import anyio
import httpx2
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.message import SessionMessage

from perstack_runner.messages import Remote
from perstack_runner.skills.http_client import MAX_BODY_BYTES, MAX_WORN, Client, Way, checked, client, tls_context
from perstack_runner.skills.streams import OpenRequests, Reading, Streams, Writing

CLOSE_SECONDS: Final = 1.0


@asynccontextmanager
async def remote_streams(remote: Remote, way: Way) -> AsyncIterator[Streams]:
    """A connection to a remote server.

    Raises:
        ValueError: the endpoint or a header cannot be used.
        ExceptionGroup: of a ValueError, when the server cannot be reached, is lost, or floods.
    """
    url = checked(remote)
    made = client(remote, url, way, await asyncio.to_thread(tls_context, way))
    requests, ended = OpenRequests(), asyncio.Event()
    try:
        async with anyio.create_task_group() as watch:
            watch.start_soon(_fail_when_broken, made)
            async with _transport(remote, url, made) as (read, write):
                yield Streams(
                    _Read(read, requests, ended),
                    _Write(write, requests),
                    ended,
                    lost=lambda: made.transport.lost,
                    worn=lambda running: made.transport.open_calls > running + MAX_WORN,
                )
            watch.cancel_scope.cancel()
    finally:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await made.http.aclose()


@asynccontextmanager
async def _transport(remote: Remote, url: httpx2.URL, made: Client) -> AsyncIterator[tuple[Reading, Writing]]:
    if remote.transport == "http":
        async with streamable_http_client(
            str(url), http_client=made.http, max_sse_event_size=MAX_BODY_BYTES
        ) as streams:
            yield streams
        return

    def ours(
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        return made.http  # with its own headers, time-outs by kind of request, and no authentication but headers

    async with sse_client(str(url), httpx_client_factory=ours) as streams:
        yield streams


async def _fail_when_broken(made: Client) -> None:
    await made.transport.on_broken.wait()
    raise ValueError(made.transport.broken)


class _Read:
    """The server's messages; sets `ended` after the last."""

    def __init__(self, inner: Reading, requests: OpenRequests, ended: asyncio.Event) -> None:
        self._inner = inner
        self._requests = requests
        self._ended = ended

    @property
    def last_context(self) -> object:
        """Of the last message: the SDK runs what answers it in there."""
        return getattr(self._inner, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        try:
            item = await self._inner.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._ended.set()
            raise
        if isinstance(item, SessionMessage):
            self._requests.came(item.message)
        return item

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __aiter__(self) -> "_Read":
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Write:
    """Messages to the server."""

    def __init__(self, inner: Writing, requests: OpenRequests) -> None:
        self._inner = inner
        self._requests = requests

    async def send(self, item: SessionMessage) -> None:
        await self._inner.send(item)
        self._requests.went(item.message)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
