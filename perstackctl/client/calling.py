"""How the parts of a client call a method and tell its failure. `Client` gives them both."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

import grpc.aio

from perstackctl.client.errors import ClientError

Explain: TypeAlias = Callable[[grpc.aio.AioRpcError], Awaitable[ClientError]]


class Call(Protocol):
    """One call with one answer; with `repeat` again when the daemon could not be reached."""

    def __call__(
        self, method: Callable[..., Awaitable[Any]], request: object, *, repeat: bool = True
    ) -> Awaitable[Any]: ...
