"""One request through a route: verified TLS to the one origin, its headers added, bodies streamed both ways.

h11 parses and frames both sides, so that no byte of framing is passed on. One request a connection; redirects go back
to the client like any answer, and it has no way to follow them but through its own rules.
"""

import asyncio
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Final

import h11

from perstack_egress.allowance import Meter
from perstack_egress.connect import MAX_HEADER
from perstack_egress.idle import Idle
from perstack_egress.limits import Limits
from perstack_egress.origin_request import Request, end_to_end, for_origin
from perstack_egress.policy import Route
from perstack_egress.refusal import Refused
from perstack_egress.tunnel import CHUNK, end_of, finish

MAX_RESPONSE_HEAD: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Call:
    """One request, understood, and where it goes."""

    request: Request
    route: Route
    head: bytes
    rest: bytes


_BUNDLES: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def trust(ca_bundle: str) -> ssl.SSLContext:
    """What origins are verified by: the authorities of a PEM file, or the machine's own for "". Blocking; it reads all
    of them now, since no file can be read later. Raises OSError.
    """
    context = ssl.create_default_context(cafile=ca_bundle or None)
    if not ca_bundle and not context.cert_store_stats()["x509_ca"]:
        # OpenSSL's default was a directory, which it reads at each handshake.
        context.load_verify_locations(next(filter(os.path.isfile, _BUNDLES), _BUNDLES[0]))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


class Exchange:
    """`client` is the caller's to close; the upstream connection is closed here."""

    def __init__(self, client: socket.socket, call: Call, limits: Limits, meter: Meter) -> None:
        self.answered = False
        self._client = client
        self._call = call
        self._limits = limits
        self._meter = meter
        self._inside = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)
        self._outside = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_RESPONSE_HEAD)
        self._sending = asyncio.Lock()

    async def run(self, upstream: socket.socket, context: ssl.SSLContext) -> str:
        """Carry it out; as `Tunnel.relay` returns. `answered` tells whether the client has seen a status.

        Raises:
            Refused: origin_tls_failed, origin_failed, request_malformed; none once it was answered.
        """
        self._read_head()
        reader, writer = await self._handshake(upstream, context)
        try:
            async with Idle(self._limits.idle_timeout) as idle, asyncio.TaskGroup() as group:
                up = group.create_task(self._up(writer, idle))
                await self._down(reader, idle)
                up.cancel()  # an answer may come before the end of the request; nobody wants the rest then
        except TimeoutError:
            return "idle_timeout"
        except BaseExceptionGroup as failures:
            return self._failed(failures)
        finally:
            writer.transport.abort()
        finish(self._client)
        return ""

    def _read_head(self) -> None:
        self._inside.receive_data(self._call.head + self._call.rest)
        try:
            event = self._inside.next_event()
        except h11.RemoteProtocolError:
            raise Refused("request_malformed", "the request cannot be read") from None
        if not isinstance(event, h11.Request):
            raise Refused("request_malformed", "the request cannot be read")

    async def _handshake(
        self, upstream: socket.socket, context: ssl.SSLContext
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, seconds = self._call.route.host.text, self._limits.dial_timeout
        try:
            return await asyncio.open_connection(
                sock=upstream, ssl=context, server_hostname=host, ssl_handshake_timeout=seconds, limit=CHUNK
            )
        except ssl.SSLCertVerificationError as error:
            detail = f"the certificate of {host} cannot be verified: {error.verify_message}"
            raise Refused("origin_tls_failed", detail.rstrip(".")) from None
        except OSError as error:
            raise Refused("origin_tls_failed", f"no TLS with {host}: {type(error).__name__}") from None

    async def _up(self, writer: asyncio.StreamWriter, idle: Idle) -> None:
        call, loop = self._call, asyncio.get_running_loop()
        request = h11.Request(
            method=call.request.method, target=call.request.target, headers=list(for_origin(call.request, call.route))
        )
        await self._write(writer, request, idle)
        while True:
            event = self._inside.next_event()
            if event is h11.NEED_DATA:
                await self._continue()
                self._inside.receive_data(await loop.sock_recv(self._client, CHUNK))
            elif isinstance(event, h11.Data):
                await self._write(writer, event, idle)
            else:
                await self._write(writer, h11.EndOfMessage(), idle)  # trailers are for one hop
                return

    async def _write(self, writer: asyncio.StreamWriter, event: h11.Event, idle: Idle) -> None:
        data = self._outside.send(event) or b""
        self._meter.up(len(data))
        writer.write(data)
        await writer.drain()
        idle.moved()

    async def _down(self, reader: asyncio.StreamReader, idle: Idle) -> None:
        while True:
            event = self._outside.next_event()
            if event is h11.NEED_DATA:
                self._outside.receive_data(await reader.read(CHUNK))
                idle.moved()
            elif isinstance(event, h11.Response):
                await self._send(_response(event))
            elif isinstance(event, h11.Data):
                await self._send(event)
            elif isinstance(event, h11.EndOfMessage):
                await self._send(h11.EndOfMessage())
                return
            elif not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError("the origin left before it had answered")

    async def _continue(self) -> None:
        """Tell a client that waits for it to send the body: whether the origin wants it is not asked."""
        if self._inside.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"), counted=False)

    async def _send(self, event: h11.Event, *, counted: bool = True) -> None:
        async with self._sending:
            data = self._inside.send(event) or b""
            if counted:
                self._meter.down(len(data))
                self.answered = True
            await asyncio.get_running_loop().sock_sendall(self._client, data)

    def _failed(self, failures: BaseExceptionGroup[BaseException]) -> str:
        broken, others = failures.split(h11.ProtocolError)
        if others is None and broken is not None:
            if self.answered:
                return "origin_failed"
            if broken.subgroup(h11.RemoteProtocolError) and self._inside.their_state is h11.ERROR:
                raise Refused("request_malformed", "the body of the request cannot be read") from None
            raise Refused("origin_failed", f"{self._call.route.host.text} gave no answer that can be read") from None
        reason = end_of(failures if others is None else others)
        if reason == "connection_lost" and not self.answered:
            raise Refused("origin_failed", f"{self._call.route.host.text} closed the connection") from None
        return reason


def _response(event: h11.Response) -> h11.Response:
    fields = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
    kept = [(name.encode("ascii"), value.encode("latin-1")) for name, value in end_to_end(fields)]
    headers = [*kept, (b"connection", b"close")]
    return h11.Response(status_code=event.status_code, reason=event.reason, headers=headers)
