"""One sandbox's listener: accepts at a bounded rate, holds at most so many connections, reports each."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable

from perstack_egress import answer
from perstack_egress.allowance import sandbox_allowance
from perstack_egress.connection import Connection, Means, Outcome
from perstack_egress.limits import Limits
from perstack_egress.log import log
from perstack_egress.policy import Policy
from perstack_egress.refusal import Refused
from perstack_egress.resolve import Resolver


class Pace:
    """A token bucket (pure): how long the next one must wait."""

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float) -> float:
        """Take one token, also one that is yet to come; returns the seconds until it is there."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, -self._tokens / self._rate)


class Listener:
    """Owns the listening socket and its connections; `run` in a task, `close` ends it.

    Order at the end: no new clients, every tunnel ended and reported, the socket closed.
    """

    def __init__(
        self,
        listening: socket.socket,
        limits: Limits,
        resolver: Resolver,
        report: Callable[[Outcome], Awaitable[None]],
        *,
        used_bytes: int = 0,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._listening = listening
        self._limits = limits
        self._means = Means(limits, resolver, sandbox_allowance(limits.sandbox_bytes, used_bytes), trust)
        self._report = report
        self._policy = Policy()
        self._connections: set[Connection] = set()
        self._acceptor: asyncio.Task[None] | None = None
        self._closed = False

    async def run(self) -> None:
        """Serve until closed. Reports are handed over before it returns."""
        try:
            async with asyncio.TaskGroup() as group:
                if not self._closed:
                    self._acceptor = group.create_task(self._accept(group))
        finally:
            self._listening.close()

    def set_policy(self, policy: Policy) -> None:
        """In force on return: connections that it forbids have ended, whatever their stage."""
        self._policy = policy
        for connection in tuple(self._connections):
            if connection.forbidden_by(policy):
                connection.end("policy_changed")

    @property
    def policy(self) -> Policy:
        """What is in force."""
        return self._policy

    def close(self, reason: str = "listener_closed") -> None:
        """Stop accepting and end every connection, with that reason; `run` returns soon after. Idempotent."""
        self._closed = True
        self._policy = Policy()
        if self._acceptor is not None:
            self._acceptor.cancel()
        for connection in tuple(self._connections):
            connection.end(reason)

    async def _accept(self, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        pace = Pace(self._limits.rate, self._limits.burst, loop.time())
        while True:
            try:
                client, _ = await loop.sock_accept(self._listening)
            except OSError as error:
                # Out of descriptors, most likely: clients wait in the backlog until there are some.
                log("accept_failed", error=str(error))
                await asyncio.sleep(0.1)
                continue
            if len(self._connections) >= self._limits.connections:
                await self._turn_away(client)
            else:
                connection = Connection(client, lambda: self._policy, self._means)
                self._connections.add(connection)
                group.create_task(self._serve(connection))
            await asyncio.sleep(pace.take(loop.time()))

    async def _serve(self, connection: Connection) -> None:
        # The place is free only when the report is handed over: a daemon that does not read slows sandboxes down.
        try:
            outcome = await connection.serve()
            if outcome is not None:
                await self._report(outcome)
        finally:
            self._connections.discard(connection)

    async def _turn_away(self, client: socket.socket) -> None:
        refused = Refused(
            "too_many_connections", f"this sandbox has {self._limits.connections} connections open already"
        )
        try:
            # The buffer of a new socket takes it at once, or nobody is there to read it.
            client.send(answer.render(refused))
        except OSError:
            log("turn_away_failed")
        finally:
            client.close()
        await self._report(Outcome("", 0, allowed=False, reason=refused.reason))
