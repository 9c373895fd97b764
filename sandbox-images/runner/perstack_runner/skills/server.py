"""One life of an MCP server: connection, handshake, tool list; until it ends or is no longer wanted."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Final, NamedTuple

import mcp_types as mcp
from mcp.client import ClientSession
from mcp.shared.exceptions import MCPError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION

from perstack_runner import VERSION
from perstack_runner.children import Children, Spec
from perstack_runner.messages import Remote, SkillOrder, ToolSpec
from perstack_runner.skills.content import MAX_TOOLS, tool_specs
from perstack_runner.skills.http_client import Way
from perstack_runner.skills.last_words import LastWords
from perstack_runner.skills.server_requests import CAPABILITIES, ServerRequests
from perstack_runner.skills.stdio import process_streams
from perstack_runner.skills.streams import Streams
from perstack_runner.threads import run_apart

MAX_PAGES: Final = 100
MAX_LISTED_BYTES: Final = 8 << 20
"""Of a whole list, before pick and omit."""
_NO_HANDSHAKE: Final = (mcp.METHOD_NOT_FOUND, mcp.UNSUPPORTED_PROTOCOL_VERSION)
_ABOUT: Final = mcp.Implementation(name="perstack-runner", version=VERSION)


class Place(NamedTuple):
    """A working directory, and a home of its own unless it is ""."""

    directory: str
    home: str = ""


class Setting(NamedTuple):
    """Where a server lives: environment of a process, `place` makes or names its directories (blocking), `hidden` is
    what it must not reach; the workspace that it is told of, or ""; the way to hosts.
    """

    environment: dict[str, str]
    place: Callable[[], Place]
    hidden: str
    root: str
    way: Way


RemoteStreams = Callable[[Remote, Way], AbstractAsyncContextManager[Streams]]


class Server(NamedTuple):
    """A server that answered."""

    session: ClientSession
    streams: Streams
    tools: tuple[ToolSpec, ...]
    name: str
    version: str


@asynccontextmanager
async def streams_of(
    order: SkillOrder, setting: Setting, children: Children, words: LastWords
) -> AsyncIterator[Streams]:
    """Its connection. Raises ValueError when the order names neither a command nor an endpoint, and as those do."""
    if order.remote is not None:
        remote_streams = await run_apart(_with_http)
        async with remote_streams(order.remote, setting.way) as streams:
            yield streams
    elif order.command:
        place = await run_apart(setting.place)
        home = {"HOME": place.home} if place.home else {}
        environment = {**setting.environment, **home, **dict(order.env)}
        spec = Spec(order.command, environment, partial(_open_directory, place.directory), hidden=setting.hidden)
        async with process_streams(spec, children, words) as streams:
            yield streams
    else:
        raise ValueError("it has neither a command nor an endpoint")


def _with_http() -> RemoteStreams:
    """What an assignment without a remote skill does without: reads files, not on the loop."""
    import httpcore2  # noqa: F401 - the client would import it on the loop

    from perstack_runner.skills.remote import remote_streams

    return remote_streams


def _open_directory(path: str) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


@asynccontextmanager
async def connected(
    connection: AbstractAsyncContextManager[Streams], order: SkillOrder, requests: ServerRequests
) -> AsyncIterator[Server]:
    """A server, reached and asked for its tools. On leaving: its session, then its connection.

    Raises:
        OSError, ValueError: it could not be started or reached, or its list is not usable.
        MCPError, pydantic.ValidationError: it answered with an error or with nonsense.
        ExceptionGroup: several of them.
    """
    async with (
        connection as streams,
        ClientSession(
            streams.read,
            streams.write,
            list_roots_callback=requests.list_roots,
            elicitation_callback=requests.elicit,
            logging_callback=requests.log,
            message_handler=requests.notice,
            client_info=_ABOUT,
        ) as session,
    ):
        await _introduce(session)
        about = session.server_info
        name, version = (about.name, about.version) if about is not None else ("", "")
        tools = await listed(session, order)
        await requests.settle()
        yield Server(session, streams, tools, name[:200], version[:200])


async def _introduce(session: ClientSession) -> None:
    """The handshake; with a server that has none, the newer protocol's discovery."""
    # Not initialize(): it announces that a person can be sent to an address, which is refused here.
    params = mcp.InitializeRequestParams(
        protocol_version=LATEST_HANDSHAKE_VERSION, capabilities=CAPABILITIES, client_info=_ABOUT
    )
    try:
        result = await session.send_request(mcp.InitializeRequest(params=params), mcp.InitializeResult)
    except MCPError as error:
        if error.code not in _NO_HANDSHAKE:
            raise
        await session.discover()
        return
    if result.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
        raise ValueError(
            f"its server speaks a version of the protocol that is not known: {result.protocol_version[:40]}"
        )
    session.adopt(result)
    await session.send_notification(mcp.InitializedNotification())


async def listed(session: ClientSession, order: SkillOrder) -> tuple[ToolSpec, ...]:
    """The tools that the skill keeps. Raises ValueError past 1,000 tools, 100 pages or 8 MiB, and as tool_specs()."""
    capabilities = session.server_capabilities
    if capabilities is not None and capabilities.tools is None:
        return tool_specs(order, ())
    tools: list[mcp.Tool] = []
    size = 0
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await session.list_tools(
            params=mcp.PaginatedRequestParams(cursor=cursor) if cursor is not None else None
        )
        tools += page.tools
        size += len(page.model_dump_json())
        if len(tools) > MAX_TOOLS:
            raise ValueError(f"the server lists more than {MAX_TOOLS} tools")
        if size > MAX_LISTED_BYTES:
            raise ValueError(f"the server's tool list is over {MAX_LISTED_BYTES >> 20} MiB")
        if page.next_cursor is None:
            return tool_specs(order, tools)
        cursor = page.next_cursor
    raise ValueError(f"the server lists its tools on more than {MAX_PAGES} pages")
