"""What a session needs of a connection, whatever carries it; and the bound on what a server may ask at once."""

import asyncio
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self

from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCMessage, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

MAX_OPEN_REQUESTS: Final = 64


class Reading(Protocol):
    """Messages of a server, as the SDK's session takes them; those of SDK and anyio satisfy it."""

    async def receive(self) -> SessionMessage | Exception: ...

    async def aclose(self) -> None: ...

    def __aiter__(self) -> "Reading": ...

    async def __anext__(self) -> SessionMessage | Exception: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


class Writing(Protocol):
    """Messages to a server."""

    async def send(self, item: SessionMessage, /) -> None: ...

    async def aclose(self) -> None: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


class Streams(NamedTuple):
    """A connection. `ended` is set when nothing comes from the server any more.

    `lost` tells that the server does not know the session, so that the request was not looked at; `worn`, given how
    many calls are running, that too many answers are outstanding which nobody waits for.
    """

    read: Reading
    write: Writing
    ended: asyncio.Event
    lost: Callable[[], bool] = lambda: False
    worn: Callable[[int], bool] = lambda _: False


class OpenRequests:
    """The server's requests without an answer: each holds a task, so a server that floods is left at 64."""

    def __init__(self) -> None:
        self._open: Counter[int | str] = Counter()

    def came(self, message: JSONRPCMessage) -> None:
        """A message of the server. Raises ValueError when it is one request too many."""
        match message:
            case JSONRPCRequest(id=number):
                self._open[number] += 1
                if self._open.total() > MAX_OPEN_REQUESTS:
                    raise ValueError(f"it asked for more than {MAX_OPEN_REQUESTS} things at once")
            case JSONRPCNotification(method="notifications/cancelled", params={"requestId": int() | str() as number}):
                self._done(number)
            case _:
                return

    def went(self, message: JSONRPCMessage) -> None:
        """A message to the server that was written."""
        match message:
            case JSONRPCResponse(id=number) | JSONRPCError(id=int() | str() as number):
                self._done(number)
            case _:
                return

    def _done(self, number: int | str) -> None:
        if self._open[number] > 1:
            self._open[number] -= 1
        else:
            del self._open[number]
