"""One client of one listener, from its first byte to its last: header, policy, name, dial, ClientHello, tunnel."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from perstack_egress import answer
from perstack_egress.addresses import Address, may_dial
from perstack_egress.client import Client, ClientGone
from perstack_egress.connect import parse_connect
from perstack_egress.dial import dial
from perstack_egress.limits import Limits
from perstack_egress.log import log
from perstack_egress.policy import Host, Policy, parse_host
from perstack_egress.refusal import Refused
from perstack_egress.resolve import Resolver, resolve
from perstack_egress.tunnel import Counts, Tunnel


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is reported of one CONNECT. `host` is canonical when it was understood, else as it was written."""

    host: str
    port: int
    allowed: bool
    reason: str
    counts: Counts = field(default_factory=Counts)
    seconds: float = 0.0


class Connection:
    """Serves one accepted socket and closes it. `policy` is asked anew for each decision."""

    def __init__(self, client: socket.socket, policy: Callable[[], Policy], limits: Limits, resolver: Resolver) -> None:
        self._client = client
        self._talk = Client(client)
        self._policy = policy
        self._limits = limits
        self._resolver = resolver
        self._upstream: socket.socket | None = None
        self._address: Address | None = None
        self._asked: tuple[str, int] = ("", 0)
        self._host: Host | None = None
        self._established = False
        self._counts = Counts()
        self._task: asyncio.Task[Outcome | None] | None = None
        self._ended = ""

    async def serve(self) -> Outcome | None:
        """Serve to the end; None when the client left before it asked for anything. Never raises but when cancelled."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._task = asyncio.current_task()
        try:
            allowed, reason = await self._decide()
        except asyncio.CancelledError:
            if not self._ended:
                raise
            allowed, reason = self._established, self._ended
        finally:
            self._task = None  # what comes after, the report, is not to be ended
            self._client.close()
            if self._upstream is not None:
                self._upstream.close()
        if not allowed and not reason:
            return None
        return Outcome(*self._asked, allowed, reason, self._counts, loop.time() - started)

    def end(self, reason: str) -> None:
        """End it now, whatever it does: no byte passes after this returns. `reason` is reported."""
        self._ended = self._ended or reason
        for side in (self._client, self._upstream):
            if side is not None and side.fileno() >= 0:
                with suppress(OSError):  # not connected any more
                    side.shutdown(socket.SHUT_RDWR)
        if self._task is not None:
            self._task.cancel()

    def forbidden_by(self, policy: Policy) -> bool:
        """Whether it leads, or is about to lead, where `policy` does not."""
        if self._host is None:
            return False
        if not policy.permits(self._host, self._asked[1]):
            return True
        return self._address is not None and not may_dial(self._address, policy.networks)

    async def _decide(self) -> tuple[bool, str]:
        """Whether it was let through, and the reason of a refusal or of an end that was not clean."""
        try:
            await self._open()
            first = await self._first_bytes()
            return True, await self._relay(first)
        except Refused as refused:
            await self._refuse(refused)
            return False, refused.reason
        except (ClientGone, ConnectionError, TimeoutError):
            return self._established, "client_gone" if self._asked[0] else ""
        except Exception as error:  # the boundary: a fault of ours must not end the other tunnels
            log("connection_failed", error=type(error).__name__, host=self._asked[0])
            await self._refuse(Refused("internal", "the proxy failed"))
            return False, "internal"

    async def _open(self) -> None:
        target = parse_connect(await self._talk.header(self._limits.header_timeout))
        self._asked = (target.host, target.port)
        host = parse_host(target.host)
        self._asked = (host.text, target.port)
        self._host = host
        policy = self._policy()
        policy.check(host, target.port)
        addresses = await resolve(self._resolver, host, policy.networks, self._limits.dial_timeout)
        self._upstream, self._address = await dial(addresses, target.port, policy.networks, self._limits.dial_timeout)
        if self.forbidden_by(self._policy()):
            raise Refused("policy_changed", f"{host.text} is not allowed any more")
        await self._talk.send(answer.ESTABLISHED)
        self._established = True

    async def _first_bytes(self) -> bytes:
        """The checked ClientHello, as it came; nothing where TLS is not asked for."""
        if self._host is None or self._asked[1] not in self._limits.tls_ports:
            return b""
        return await self._talk.client_hello(self._host, self._limits.hello_timeout)

    async def _relay(self, first: bytes) -> str:
        if self._upstream is None:
            raise AssertionError("a tunnel needs an upstream")
        tunnel = Tunnel(self._client, self._upstream, self._limits.idle_timeout)
        self._counts = tunnel.counts
        return await tunnel.relay(first)

    async def _refuse(self, refused: Refused) -> None:
        host, port = ("", 0) if self._host is None else (self._host.text, self._asked[1])
        data = answer.alert(refused.reason) if self._established else answer.render(refused, host, port)
        with suppress(OSError):  # it left, or does not read: the refusal stands and is reported
            await self._talk.send(data)
