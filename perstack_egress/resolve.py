"""Names to addresses that may be dialled. What is returned here is what is dialled: no name is looked up twice."""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import Executor
from ipaddress import ip_address
from typing import Final, Protocol

from perstack_egress.addresses import Address, Network, may_dial
from perstack_egress.policy import Host
from perstack_egress.refusal import Refused

# More do not help a dial that has one deadline for all of them.
_MAX_ADDRESSES: Final = 8


class Resolver(Protocol):
    """Looks a name up."""

    async def lookup(self, name: str) -> Sequence[Address]:
        """Addresses in the order of preference. Raises OSError when there are none."""
        ...


class SystemResolver:
    """The machine's resolver, on threads. Each listener has one: names that never answer fill only its own places.

    A place is taken until the thread is back, not until the caller gave up: a look-up cannot be interrupted.
    """

    def __init__(self, executor: Executor, at_once: int) -> None:
        self._executor = executor
        self._places = asyncio.Semaphore(at_once)

    async def lookup(self, name: str) -> Sequence[Address]:
        loop = asyncio.get_running_loop()
        await self._places.acquire()
        # Bytes keep Python's own IDNA step out of it: the name is canonical ASCII already.
        job = self._executor.submit(socket.getaddrinfo, name.encode("ascii"), None, type=socket.SOCK_STREAM)
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._places.release))
        found = await asyncio.wrap_future(job)
        return tuple(dict.fromkeys(ip_address(entry[4][0]) for entry in found))


async def resolve(resolver: Resolver, host: Host, allowed: Sequence[Network], seconds: float) -> Sequence[Address]:
    """The addresses of `host` that may be dialled, at least one; an address stands for itself.

    Raises:
        Refused: resolve_failed, resolve_timeout; address_not_global when none of its addresses may be dialled.
    """
    usable = [address for address in await look_up(resolver, host, seconds) if may_dial(address, allowed)]
    if not usable:
        raise Refused("address_not_global", f"{host.text} resolves to an address that is not global")
    return usable[:_MAX_ADDRESSES]


async def look_up(resolver: Resolver, host: Host, seconds: float) -> Sequence[Address]:
    """What `host` stands for, at least one address, whether it may be dialled or not.

    Raises:
        Refused: resolve_failed, resolve_timeout.
    """
    if host.address is not None:
        return (host.address,)
    name = host.text
    try:
        async with asyncio.timeout(seconds):
            found = await resolver.lookup(name)
    except TimeoutError:
        raise Refused("resolve_timeout", f"{name} was not resolved within {seconds:g} s") from None
    except (OSError, UnicodeError, ValueError):
        raise Refused("resolve_failed", f"{name} cannot be resolved") from None
    if not found:
        raise Refused("resolve_failed", f"{name} has no address")
    return found
