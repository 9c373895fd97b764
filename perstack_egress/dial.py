"""Opens the connection to the first of some checked addresses that answers."""

import asyncio
import errno
import os
import socket
from collections.abc import Sequence

from perstack_egress.addresses import Address, Network, inside
from perstack_egress.refusal import Refused


async def dial(
    addresses: Sequence[Address], port: int, allowed: Sequence[Network], seconds: float
) -> tuple[socket.socket, Address]:
    """A connected non-blocking socket and where it leads. Each address gets an equal part of the time that is left.

    Raises:
        Refused: address_is_this_host, dial_failed, dial_timeout: of the last address that was tried.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    last = Refused("dial_failed", "there is no address to dial")
    for position, address in enumerate(addresses):
        share = (deadline - loop.time()) / (len(addresses) - position)
        try:
            return await _dial_one(address, port, allowed, share), address
        except Refused as refused:
            last = refused
    raise last


async def _dial_one(address: Address, port: int, allowed: Sequence[Network], seconds: float) -> socket.socket:
    if not inside(address, allowed) and is_local(address, port):
        # A public address of this machine is global, but from here it passes no firewall.
        raise Refused("address_is_this_host", "the name leads to the sandbox's own host")
    connection = socket.socket(_family(address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        async with asyncio.timeout(seconds):
            await _connect(connection, (str(address), port))
    except BaseException as error:
        connection.close()
        match error:
            case TimeoutError() if error.errno is None:
                raise Refused("dial_timeout", f"no answer from port {port} within {seconds:.1f} s") from None
            case OSError():
                cause = os.strerror(error.errno) if error.errno else "no route"
                raise Refused("dial_failed", f"the connection to port {port} failed: {cause}") from None
        raise
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connection


async def _connect(connection: socket.socket, address: tuple[str, int]) -> None:
    """Connect to a numeric address. Not loop.sock_connect: that asks the resolver once more."""
    loop = asyncio.get_running_loop()
    code = connection.connect_ex(address)
    if code == errno.EINPROGRESS:
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_writer(connection.fileno(), _set, ready)
        try:
            await ready
        finally:
            loop.remove_writer(connection.fileno())
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def is_local(address: Address, port: int) -> bool:
    """Whether the kernel would answer `address` itself: then it is its own source. A UDP connect sends nothing."""
    with socket.socket(_family(address), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect((str(address), port))
        except OSError:
            return False  # no route: the dial will say so
        return str(probe.getsockname()[0]) == str(address)


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
