"""One life of an MCP server: process, pipes, handshake, tool list; until it ends or is no longer wanted."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

import anyio
import mcp_types as mcp
from mcp.client.session import ClientRequestContext, ClientSession, ListRootsFnT
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage

from perstack_runner import VERSION
from perstack_runner.children import Child, Children, Spec
from perstack_runner.messages import SkillOrder, ToolSpec
from perstack_runner.skills.content import MAX_TOOLS, tool_specs
from perstack_runner.skills.pipes import Incoming, LastWords, read_messages, write_messages

MAX_PAGES: Final = 100
GRACE_SECONDS: Final = 1.0
LAST_OUTPUT_SECONDS: Final = 0.05
_NO_HANDSHAKE: Final = (mcp.METHOD_NOT_FOUND, mcp.UNSUPPORTED_PROTOCOL_VERSION)


class Setting(NamedTuple):
    """Where a server lives. `directory` opens its working directory; `root` is the workspace it is told of, or ""."""

    environment: dict[str, str]
    directory: Callable[[], int]
    root: str


class Server(NamedTuple):
    """A server that answered. `ended` is set when its process or its output has come to an end."""

    session: ClientSession
    ended: asyncio.Event
    tools: tuple[ToolSpec, ...]
    name: str
    version: str


class _Pipes:
    """Three pipes to a child; each descriptor is closed once."""

    def __init__(self) -> None:
        self.child_in, self.stdin = os.pipe2(os.O_CLOEXEC)
        self.stdout, self.child_out = os.pipe2(os.O_CLOEXEC)
        self.stderr, self.child_err = os.pipe2(os.O_CLOEXEC)
        self._open = {self.child_in, self.stdin, self.stdout, self.child_out, self.stderr, self.child_err}
        for descriptor in (self.stdin, self.stdout, self.stderr):
            os.set_blocking(descriptor, False)

    def close(self, *descriptors: int) -> None:
        """Close these, or all; again is nothing."""
        for descriptor in descriptors or tuple(self._open):
            if descriptor in self._open:
                self._open.discard(descriptor)
                os.close(descriptor)


@asynccontextmanager
async def connected(order: SkillOrder, setting: Setting, children: Children, words: LastWords) -> AsyncIterator[Server]:
    """A server, started and asked for its tools. On leaving: its input is closed, 1 s, SIGTERM, 1 s, SIGKILL.

    Raises:
        OSError, ValueError: it could not be started, or its list is not usable.
        MCPError, pydantic.ValidationError: it answered with an error or with nonsense.
        ExceptionGroup: several of them.
    """
    pipes = _Pipes()
    try:
        child = await children.start(_spec(order, setting, pipes))
        pipes.close(pipes.child_in, pipes.child_out, pipes.child_err)
        try:
            async with anyio.create_task_group() as pumps:
                incoming, read_stream = anyio.create_memory_object_stream[SessionMessage | Exception](16)
                write_stream, outgoing = anyio.create_memory_object_stream[SessionMessage](16)
                ended = asyncio.Event()
                pumps.start_soon(_until_the_end, child, pipes.stdout, incoming, ended)
                pumps.start_soon(write_messages, pipes.stdin, outgoing)
                pumps.start_soon(words.read, pipes.stderr)
                async with ClientSession(
                    read_stream,
                    write_stream,
                    list_roots_callback=_roots(setting.root) if setting.root else None,
                    client_info=mcp.Implementation(name="perstack-runner", version=VERSION),
                ) as session:
                    yield await _introduced(session, ended, order)
                pumps.cancel_scope.cancel()
        finally:
            pipes.close(pipes.stdin)
            await _end(child, children)
    finally:
        pipes.close()


def _spec(order: SkillOrder, setting: Setting, pipes: _Pipes) -> Spec:
    return Spec(
        order.command,
        {**setting.environment, **dict(order.env)},
        setting.directory,
        stdin=pipes.child_in,
        stdout=pipes.child_out,
        stderr=pipes.child_err,
    )


async def _until_the_end(child: Child, descriptor: int, incoming: Incoming, ended: asyncio.Event) -> None:
    """Read until the output ends; a process that is gone ends it too, though a grandchild may hold the pipe."""
    async with anyio.create_task_group() as either:
        either.start_soon(_cancel_after, child.exited, either.cancel_scope)
        try:
            await read_messages(descriptor, incoming)
        finally:
            ended.set()
        either.cancel_scope.cancel()


async def _cancel_after(event: asyncio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    await anyio.sleep(LAST_OUTPUT_SECONDS)
    scope.cancel()


async def _end(child: Child, children: Children) -> None:
    # The shield holds off anyio's cancelling, not asyncio's own: that one cuts the wait short, but never the end.
    with anyio.CancelScope(shield=True):
        try:
            with anyio.move_on_after(GRACE_SECONDS):
                await child.exited.wait()
        finally:
            await children.end(child, grace=GRACE_SECONDS)


async def _introduced(session: ClientSession, ended: asyncio.Event, order: SkillOrder) -> Server:
    try:
        await session.initialize()
    except MCPError as error:
        if error.code not in _NO_HANDSHAKE:
            raise
        await session.discover()  # a server that speaks only the newer protocol has no handshake
    tools = await _tools(session) if _has_tools(session) else []
    about = session.server_info
    name, version = (about.name, about.version) if about is not None else ("", "")
    return Server(session, ended, tool_specs(order, tools), name[:200], version[:200])


def _has_tools(session: ClientSession) -> bool:
    capabilities = session.server_capabilities
    return capabilities is None or capabilities.tools is not None


async def _tools(session: ClientSession) -> list[mcp.Tool]:
    tools: list[mcp.Tool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        params = mcp.PaginatedRequestParams(cursor=cursor) if cursor is not None else None
        page = await session.list_tools(params=params)
        tools += page.tools
        if len(tools) > MAX_TOOLS:
            raise ValueError(f"the server lists more than {MAX_TOOLS} tools")
        if page.next_cursor is None:
            return tools
        cursor = page.next_cursor
    raise ValueError(f"the server lists its tools on more than {MAX_PAGES} pages")


def _roots(path: str) -> ListRootsFnT:
    async def answer(context: ClientRequestContext) -> mcp.ListRootsResult:
        return mcp.ListRootsResult(roots=[mcp.Root(uri=f"file://{path}", name="workspace")])

    return answer
