"""One client of one listener, from its first byte to its last: header, policy, name, dial, ClientHello, tunnel; or a
request through a route, which goes the same way as far as the dial.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from perstack_egress import answer, origin_request
from perstack_egress.addresses import Address, may_dial
from perstack_egress.allowance import Allowance, Counts, Meter, Spent
from perstack_egress.client import Client, ClientGone
from perstack_egress.connect import parse_connect
from perstack_egress.dial import dial
from perstack_egress.limits import Limits
from perstack_egress.log import log
from perstack_egress.policy import Host, Policy, Route, parse_host
from perstack_egress.refusal import STATUS, Refused
from perstack_egress.resolve import Resolver, resolve
from perstack_egress.tunnel import Tunnel


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is reported of one connection. `host` is canonical when it was understood, else as it was written."""

    host: str
    port: int
    allowed: bool
    reason: str
    counts: Counts = field(default_factory=Counts)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Means:
    """What the connections of one sandbox share. `trust` verifies origins; None where no route is configured."""

    limits: Limits
    resolver: Resolver
    allowance: Allowance
    trust: ssl.SSLContext | None = None


class Connection:
    """Serves one accepted socket and closes it. `policy` is asked anew for each decision."""

    def __init__(self, client: socket.socket, policy: Callable[[], Policy], means: Means) -> None:
        self._client = client
        self._talk = Client(client)
        self._policy = policy
        self._means = means
        self._limits = means.limits
        self._meter = Meter(means.limits.tunnel_bytes, means.allowance)
        self._upstream: socket.socket | None = None
        self._address: Address | None = None
        self._asked: tuple[str, int] = ("", 0)
        self._host: Host | None = None
        self._route: Route | None = None
        self._established = False
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
        return Outcome(*self._asked, allowed, reason, self._meter.counts, loop.time() - started)

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
        if self._route is not None:
            if self._route not in policy.routes:
                return True
        elif not policy.permits(self._host, self._asked[1]):
            return True
        return self._address is not None and not may_dial(self._address, policy.networks)

    async def _decide(self) -> tuple[bool, str]:
        """Whether it was let through, and the reason of a refusal or of an end that was not clean."""
        try:
            header = await self._talk.header(self._limits.header_timeout)
            if origin_request.is_for_route(header):
                return True, await self._through_route(header)
            return True, await self._through_tunnel(header)
        except Refused as refused:
            await self._refuse(refused)
            return False, refused.reason
        except (ClientGone, ConnectionError, TimeoutError):
            return self._established, "client_gone" if self._asked[0] else ""
        except Exception as error:  # the boundary: a fault of ours must not end the other tunnels
            log("connection_failed", error=type(error).__name__, host=self._asked[0])
            await self._refuse(Refused("internal", "the proxy failed"))
            return False, "internal"

    async def _through_tunnel(self, header: bytes) -> str:
        target = parse_connect(header)
        self._asked = (target.host, target.port)
        self._host = parse_host(target.host)
        self._asked = (self._host.text, target.port)
        self._policy().check(self._host, target.port)
        upstream = await self._reach(self._host, target.port)
        await self._talk.send(answer.ESTABLISHED)
        self._established = True
        first = await self._first_bytes(self._host, target.port)
        return await Tunnel(self._client, upstream, self._limits.idle_timeout, self._meter).relay(first)

    async def _through_route(self, header: bytes) -> str:
        from perstack_egress.origin import Call, Exchange  # loaded at the start, where a route is configured

        head, rest = origin_request.split(header)
        request = origin_request.parse_request(head)
        self._asked = (f"/{request.route}", 0)
        route = self._policy().route(request.route)
        if self._means.trust is None:
            raise AssertionError("a route was taken without authorities to verify its origin by")
        self._asked, self._host, self._route = (route.host.text, route.port), route.host, route
        upstream = await self._reach(route.host, route.port)
        exchange = Exchange(self._client, Call(request, route, head, rest), self._limits, self._meter)
        try:
            reason = await exchange.run(upstream, self._means.trust)
        finally:
            self._established = exchange.answered
        if reason and not exchange.answered:
            known = reason if reason in STATUS else "origin_failed"
            raise Refused(known, f"{route.host.text} was not heard of ({reason})")
        return reason

    async def _reach(self, host: Host, port: int) -> socket.socket:
        """Look the name up, once, and dial what was found. Raises Refused."""
        try:
            self._means.allowance.check()
        except Spent as spent:
            raise Refused(spent.reason, spent.detail) from None
        networks, seconds = self._policy().networks, self._limits.dial_timeout
        addresses = await resolve(self._means.resolver, host, networks, seconds)
        self._upstream, self._address = await dial(addresses, port, networks, seconds)
        if self.forbidden_by(self._policy()):
            raise Refused("policy_changed", f"{host.text} is not allowed any more")
        return self._upstream

    async def _first_bytes(self, host: Host, port: int) -> bytes:
        """The checked ClientHello, as it came; nothing where TLS is not asked for."""
        if port not in self._limits.tls_ports:
            return b""
        return await self._talk.client_hello(host, self._limits.hello_timeout)

    async def _refuse(self, refused: Refused) -> None:
        host, port = ("", 0) if self._host is None else (self._host.text, self._asked[1])
        if self._established:
            data = answer.alert(refused.reason)
        else:
            data = answer.render(refused, host, port, through_route=self._route is not None)
        with suppress(OSError):  # it left, or does not read: the refusal stands and is reported
            await self._talk.send(data)
