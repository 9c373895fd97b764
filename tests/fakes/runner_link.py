"""Links without sockets. The test is the runner: it pushes asks, reads orders, and lets go.

Runners live in `FakeRunnerLinks.tokens`, which outlives a link as a sandbox outlives a daemon that is killed.
An idle runner answers probes by itself, from what the fake workspaces show at its sandbox's slot.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import PurePosixPath

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.session import Ask, Hello, LinkLost, Order, Probe, ProbeResult
from tests.fakes.workspaces import FakeWorkspaces

HELLO = Hello(protocol_version=1, runner_version="0.1.0", python_version="3.13.0", landlock_abi=4, dumpable=False)
_PROTOCOLS = (0, 1)
_TRIES = 8


def hash_of(token: str) -> str:
    """As the store has it."""
    return hashlib.sha256(token.encode()).hexdigest()


class FakeRunnerLink:
    """One session. `orders` are those that were sent, `acknowledged` how many asks the daemon said are stored."""

    def __init__(self, sandbox_id: SandboxId, path: str, links: "FakeRunnerLinks", expected_hash: str = "") -> None:
        self.token_hash = ""
        self.sandbox_id = sandbox_id
        self.path = path
        self.slot = str(PurePosixPath(path).parents[1] / "slot")
        self.orders: list[Order] = []
        self.acknowledged = 0
        self.closed = False
        self.answers_probes = True
        self._links = links
        self._expected_hash = expected_hash
        self._tries = 0
        self._asks: asyncio.Queue[Ask] = asyncio.Queue()
        self._lost = ""
        self._read = 0
        self._reading = False

    # --- the runner's side ------------------------------------------------------------------------------------------
    def dial(self, token: str = "") -> bool:
        """Somebody inside opens a stream with this token; whether it is greeted. The first one is, or the token's."""
        self._tries += 1
        if self._expected_hash and self._tries > _TRIES:
            self.lose("its socket was dialled too often without the session's token")
        if self.token_hash or self._lost or (self._expected_hash and hash_of(token) != self._expected_hash):
            return False
        kept = token if self._expected_hash else f"token-{len(self._links.tokens)}-of-{self.sandbox_id}"
        self._links.tokens[self.sandbox_id] = kept
        self.token_hash = hash_of(kept)
        return True

    def push(self, ask: Ask) -> None:
        """The runner says this; nothing is heard of it once the link is lost."""
        if not self._lost:
            self._asks.put_nowait(ask)

    def lose(self, detail: str = "the stream ended") -> None:
        """The stream ends."""
        if not self._lost:
            self._lost = detail
            self._asks.put_nowait(LinkLost(detail))

    # --- the port ---------------------------------------------------------------------------------------------------
    async def hello(self, deadline: float) -> Hello:
        try:
            async with asyncio.timeout(deadline):
                if not self._lost:
                    await self._links.open_gate.wait()
                hello = self._links.hello
                if hello is None or self._lost:
                    raise self._silent("ended before it called")
                if not self.token_hash and not self.dial(self._links.tokens.get(self.sandbox_id, "")):
                    await asyncio.Event().wait()  # it is refused, and nobody else calls
        except TimeoutError as error:
            raise self._silent(f"did not call within {deadline:g} s") from error
        if hello.protocol_version not in _PROTOCOLS:
            message = f"the runner speaks protocol {hello.protocol_version}, this daemon 1"
            raise PerstackError(Kind.PRECONDITION, "runner_protocol", message)
        return hello

    async def send(self, order: Order) -> None:
        if self._lost:
            message = f"the link to sandbox {self.sandbox_id} is gone: {self._lost}"
            raise PerstackError(Kind.UNAVAILABLE, "link_lost", message)
        self.orders.append(order)
        workspaces = self._links.workspaces
        if isinstance(order, Probe) and self.answers_probes and workspaces is not None:
            self.push(ProbeResult(workspaces.probe(self.slot, order.path)))

    async def asks(self) -> AsyncIterator[Ask]:
        if self._reading:
            raise RuntimeError("asks() has one reader")
        self._reading = True
        while True:
            ask = await self._asks.get()
            self._read += 1
            yield ask
            if isinstance(ask, LinkLost):
                return

    @property
    def position(self) -> int:
        return self._read

    def acknowledge(self, position: int) -> None:
        self.acknowledged = max(self.acknowledged, min(position, self._read))

    async def close(self) -> None:
        self.lose("closed")
        self.closed = True

    def _silent(self, what: str) -> PerstackError:
        return PerstackError(Kind.TIMEOUT, "runner_silent", f"the sandbox {self.sandbox_id} {what}")


class FakeRunnerLinks:
    """Makes FakeRunnerLinks, kept in `made`.

    `hello` is what runners say; None makes them silent at once. `hold_hellos` keeps them from calling until
    `release_hellos`. Set `failure` to have `listen` raise it. `workspaces` answer probes. `tokens` are what the runners
    hold in memory.
    """

    def __init__(self, workspaces: FakeWorkspaces | None = None) -> None:
        self.workspaces = workspaces
        self.made: dict[SandboxId, FakeRunnerLink] = {}
        self.tokens: dict[SandboxId, str] = {}
        self.hello: Hello | None = HELLO
        self.failure: PerstackError | None = None
        self.open_gate = asyncio.Event()
        self.open_gate.set()

    async def listen(
        self, sandbox_id: SandboxId, path: str, token_hash: str = "", *, repeats: bool = False
    ) -> FakeRunnerLink:
        if self.failure is not None:
            raise self.failure
        if len(path.encode()) > 107:
            message = f"the socket path {path} is longer than 107 bytes; choose a shorter runtime directory"
            raise PerstackError(Kind.INVALID, "socket_path_too_long", message)
        link = self.made[sandbox_id] = FakeRunnerLink(sandbox_id, path, self, token_hash)
        return link

    def hold_hellos(self) -> None:
        """Runners call later."""
        self.open_gate.clear()

    def release_hellos(self) -> None:
        """Runners call now."""
        self.open_gate.set()

    def say(self, **changes: object) -> None:
        """Change what runners say in their hello."""
        self.hello = replace(HELLO, **changes)  # type: ignore[arg-type]
