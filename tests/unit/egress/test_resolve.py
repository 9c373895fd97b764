import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network

import pytest

from perstack_egress.addresses import Address
from perstack_egress.dial import dial
from perstack_egress.policy import Host, parse_host
from perstack_egress.refusal import Refused
from perstack_egress.resolve import Resolver, SystemResolver, resolve

pytestmark = pytest.mark.anyio

LOOPBACK = (ip_network("127.0.0.0/8"),)


class Names:
    """Answers in turn, the last one for ever; counts the questions."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = [tuple(ip_address(text) for text in answer) for answer in answers]
        self.asked: list[str] = []

    async def lookup(self, name: str) -> Sequence[Address]:
        self.asked.append(name)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


class Silent:
    async def lookup(self, name: str) -> Sequence[Address]:
        await asyncio.Event().wait()
        return ()


class Unknown:
    async def lookup(self, name: str) -> Sequence[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def refusal(resolver: Resolver, host: str = "a.example") -> str:
    with pytest.raises(Refused) as raised:
        await resolve(resolver, parse_host(host), (), 0.05)
    return raised.value.reason


async def test_only_addresses_that_may_be_dialled_are_left() -> None:
    resolver = Names(["10.0.0.1", "8.8.8.8", "::ffff:127.0.0.1", "2606:4700::1111"])
    found = await resolve(resolver, parse_host("a.example"), (), 1)
    assert [str(address) for address in found] == ["8.8.8.8", "2606:4700::1111"]


async def test_a_name_that_leads_inside_is_refused() -> None:
    assert await refusal(Names(["169.254.169.254", "::1"])) == "address_not_global"


async def test_a_name_without_an_answer_is_refused_with_the_cause() -> None:
    assert await refusal(Unknown()) == "resolve_failed"
    assert await refusal(Names([])) == "resolve_failed"
    assert await refusal(Silent()) == "resolve_timeout"


async def test_an_address_is_not_looked_up_but_checked() -> None:
    resolver = Names([])
    host = Host("127.0.0.1", ip_address("127.0.0.1"))
    assert list(await resolve(resolver, host, LOOPBACK, 1)) == [host.address]
    with pytest.raises(Refused):
        await resolve(resolver, host, (), 1)
    assert resolver.asked == []


async def test_the_machines_resolver_finds_localhost_and_refuses_what_is_not() -> None:
    with ThreadPoolExecutor(2) as executor:
        resolver = SystemResolver(executor, 1)
        assert ip_address("127.0.0.1") in await resolver.lookup("localhost")
        with pytest.raises(OSError, match=r"\w"):
            await resolver.lookup("x" * 64)


async def test_the_second_address_is_dialled_when_the_first_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        addresses = [ip_address("127.0.0.2"), ip_address("127.0.0.1")]
        connection, address = await dial(addresses, port, LOOPBACK, 2)
        with connection:
            assert str(address) == "127.0.0.1"
            assert connection.getpeername() == ("127.0.0.1", port)


async def test_a_closed_port_is_a_refusal_with_the_cause() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Refused, match="Connection refused") as raised:
        await dial([ip_address("127.0.0.1")], port, LOOPBACK, 2)
    assert raised.value.reason == "dial_failed"


async def test_an_address_that_never_answers_times_out() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        held, _ = await dial([ip_address("127.0.0.1")], port, LOOPBACK, 2)
        with held, pytest.raises(Refused) as raised:
            await dial([ip_address("127.0.0.1")], port, LOOPBACK, 0.05)
    assert raised.value.reason == "dial_timeout"


async def test_an_address_of_this_machine_is_refused_even_if_it_were_global() -> None:
    # Loopback stands for any address that the kernel answers itself.
    with pytest.raises(Refused) as raised:
        await dial([ip_address("127.0.0.1")], 443, (), 1)
    assert raised.value.reason == "address_is_this_host"
