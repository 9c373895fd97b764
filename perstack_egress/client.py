"""The sandbox's side of one connection: bounded, timed reads of what the proxy itself must understand."""

import asyncio
import socket
from collections.abc import Awaitable

from perstack_egress.clienthello import MAX_BYTES, check_server_name, parse_client_hello
from perstack_egress.connect import END, MAX_HEADER
from perstack_egress.policy import Host
from perstack_egress.refusal import Refused

_ANSWER_TIMEOUT = 5.0


class ClientGone(Exception):  # noqa: N818 - an end, not a fault
    """The client closed its side before there was a tunnel."""


class Client:
    """Reads from and answers to an accepted socket, which the caller owns. Reading raises ClientGone at its end."""

    def __init__(self, accepted: socket.socket) -> None:
        self._socket = accepted

    async def header(self, seconds: float) -> bytes:
        """All bytes up to the empty line, and what came with it. Raises Refused request_timeout, request_too_large."""
        return await _bounded(self._header(), seconds, "request_timeout")

    async def client_hello(self, host: Host, seconds: float) -> bytes:
        """The bytes of a ClientHello that names `host`, and what came with them.

        Raises:
            Refused: client_hello_timeout, and as parse_client_hello and check_server_name.
        """
        return await _bounded(self._hello(host), seconds, "client_hello_timeout")

    async def send(self, data: bytes) -> None:
        """Send all of a short answer. Raises OSError when the client is gone or does not read."""
        async with asyncio.timeout(_ANSWER_TIMEOUT):
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def _header(self) -> bytes:
        data = b""
        while END not in data:
            if len(data) >= MAX_HEADER:
                raise Refused("request_too_large", f"the header is larger than {MAX_HEADER} bytes")
            data += await self._receive(MAX_HEADER - len(data))
        return data

    async def _hello(self, host: Host) -> bytes:
        data = b""
        while (hello := parse_client_hello(data)) is None:
            data += await self._receive(MAX_BYTES - len(data))
        check_server_name(hello, host.text, is_address=host.address is not None)
        return data

    async def _receive(self, most: int) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(self._socket, most)
        if not data:
            raise ClientGone
        return data


async def _bounded(reading: Awaitable[bytes], seconds: float, reason: str) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            return await reading
    except TimeoutError:
        raise Refused(reason, f"the client was silent for {seconds:g} s") from None
