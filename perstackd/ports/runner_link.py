"""The link into each sandbox: one socket, one session. Orders go in, asks come out."""

from collections.abc import AsyncIterator
from typing import Protocol

from perstackd.domain.ids import SandboxId
from perstackd.domain.session import Ask, Hello, Order


class RunnerLink(Protocol):
    """One sandbox's session. Asks are already bounded, decoded and rate-limited, and are not trusted any further."""

    @property
    def token_hash(self) -> str:
        """SHA-256, in hex, of the token of the session that was greeted; empty before."""
        ...

    async def hello(self, deadline: float) -> Hello:
        """Wait for the first connection, at most `deadline` seconds; from then on nobody else can dial.

        Raises:
            PerstackError: TIMEOUT `runner_silent`; PRECONDITION `runner_protocol` when its version is not ours or one
            older.
        """
        ...

    async def send(self, order: Order) -> None:
        """Queue an order. Raises PerstackError UNAVAILABLE `link_lost` when the stream is gone."""
        ...

    def asks(self) -> AsyncIterator[Ask]:
        """Asks in order, without repeats; LinkLost once, as the last. To be iterated by one reader."""
        ...

    @property
    def position(self) -> int:
        """How far `asks()` was read: right after an ask came it is that ask's place, to be given to `acknowledge`."""
        ...

    def acknowledge(self, position: int) -> None:
        """All asks up to this one are stored, or need not be: the runner may forget them. Never goes back."""
        ...

    async def close(self) -> None:
        """End the session and the server. Idempotent."""
        ...


class RunnerLinks(Protocol):
    """Makes links."""

    async def listen(
        self, sandbox_id: SandboxId, path: str, token_hash: str = "", *, repeats: bool = False
    ) -> RunnerLink:
        """Make the socket at `path` (at most 107 bytes), mode 0666: only this sandbox has the directory.

        Without `token_hash` the first connection is the runner's. With it a session of an earlier daemon goes on: only
        who presents its token is greeted, and keeps it; anybody else is refused, and the socket stays for the right
        one, for a bounded number of tries. With `repeats` the runner says again what it said to the earlier daemon and
        was not acknowledged; without, that is lost.
        """
        ...
