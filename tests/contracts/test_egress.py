"""One suite for the egress port, over the fake and over the real process."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from perstackd.adapters.egress import EgressProxy
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.ports.egress import Egress, EgressAccess, EgressQuestion, EgressRule, Occupant
from tests.fakes.egress import FakeEgress
from tests.integration.egress.client import Client, echo_server

pytestmark = pytest.mark.anyio

ONE = SandboxId("01K0000000000000000000000A")
TWO = SandboxId("01K0000000000000000000000B")


class World(Protocol):
    """The egress under test, two ports of `localhost` that answer, and what a sandbox can do at its socket."""

    egress: Egress
    ports: tuple[int, int]
    accesses: "asyncio.Queue[EgressAccess]"

    def path(self, sandbox_id: SandboxId) -> str: ...
    async def attempt(self, sandbox_id: SandboxId, host: str, port: int) -> bool: ...
    async def is_open(self, sandbox_id: SandboxId, port: int) -> bool: ...
    async def leave(self, sandbox_id: SandboxId, port: int) -> None: ...


class FakeWorld:
    def __init__(self) -> None:
        self._fake = FakeEgress()
        self.egress: Egress = self._fake
        self.ports = (4431, 4432)
        self.accesses: asyncio.Queue[EgressAccess] = asyncio.Queue()
        self.egress.subscribe(self.accesses.put_nowait)

    def path(self, sandbox_id: SandboxId) -> str:
        return f"/run/{sandbox_id}/egress.sock"

    async def attempt(self, sandbox_id: SandboxId, host: str, port: int) -> bool:
        return self._fake.attempt(sandbox_id, host, port)

    async def is_open(self, sandbox_id: SandboxId, port: int) -> bool:
        return self._fake.is_open(sandbox_id, "localhost", port)

    async def leave(self, sandbox_id: SandboxId, port: int) -> None:
        self._fake.end(sandbox_id, "localhost", port, up=4, down=4)


class RealWorld:
    def __init__(self, egress: EgressProxy, root: Path, ports: tuple[int, int]) -> None:
        self.egress: Egress = egress
        self.ports = ports
        self.accesses: asyncio.Queue[EgressAccess] = asyncio.Queue()
        self.egress.subscribe(self.accesses.put_nowait)
        self._root = root
        self._tunnels: dict[tuple[SandboxId, int], Client] = {}

    def path(self, sandbox_id: SandboxId) -> str:
        return str(self._root / f"{sandbox_id}.sock")

    async def attempt(self, sandbox_id: SandboxId, host: str, port: int) -> bool:
        client = await Client.dial(self.path(sandbox_id))
        answer = await client.connect(host, port)
        if answer.status == 200:
            assert await client.echo(b"ping") == b"ping"
            self._tunnels[sandbox_id, port] = client
        else:
            client.writer.transport.abort()
        return answer.status == 200

    async def is_open(self, sandbox_id: SandboxId, port: int) -> bool:
        client = self._tunnels[sandbox_id, port]
        try:
            return await client.echo(b"more") == b"more"
        except (asyncio.IncompleteReadError, ConnectionError):
            return False

    async def leave(self, sandbox_id: SandboxId, port: int) -> None:
        self._tunnels.pop((sandbox_id, port)).writer.close()

    def hang_up(self) -> None:
        for client in self._tunnels.values():
            client.writer.transport.abort()


@pytest.fixture(params=["fake", "real"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "fake":
        yield FakeWorld()
        return
    root = Path(tempfile.mkdtemp(prefix="perstack-egress-"))
    async with echo_server() as first, echo_server() as second, EgressProxy(allow_addresses=("127.0.0.0/8",)) as egress:
        real = RealWorld(egress, root, (first, second))
        yield real
        real.hang_up()
    shutil.rmtree(root)


async def heard(world: World) -> EgressAccess:
    async with asyncio.timeout(10):
        return await world.accesses.get()


async def test_a_new_listener_denies_everything_and_says_why(world: World) -> None:
    await world.egress.listen(ONE, world.path(ONE))

    assert not await world.attempt(ONE, "localhost", world.ports[0])

    access = await heard(world)
    assert (access.sandbox_id, access.host, access.port) == (ONE, "localhost", world.ports[0])
    assert (access.allowed, access.reason) == (False, "host_not_allowed")


async def test_an_allowed_host_is_reached_and_its_end_is_reported_with_counts(world: World) -> None:
    await world.egress.listen(ONE, world.path(ONE))
    await world.egress.allow(ONE, [EgressRule("localhost", world.ports[0])])

    assert await world.attempt(ONE, "localhost", world.ports[0])
    await world.leave(ONE, world.ports[0])

    access = await heard(world)
    assert (access.allowed, access.reason) == (True, "")
    assert (access.bytes_up, access.bytes_down) == (4, 4)


async def test_a_host_is_the_same_in_upper_case_and_with_a_trailing_dot(world: World) -> None:
    await world.egress.listen(ONE, world.path(ONE))
    await world.egress.allow(ONE, [EgressRule("LocalHost.", world.ports[0])])

    assert await world.attempt(ONE, "LOCALHOST.", world.ports[0])


async def test_an_allowed_host_is_not_reached_on_another_port(world: World) -> None:
    await world.egress.listen(ONE, world.path(ONE))
    await world.egress.allow(ONE, [EgressRule("localhost", world.ports[0])])

    assert not await world.attempt(ONE, "localhost", world.ports[1])
    assert (await heard(world)).reason == "port_not_allowed"


async def test_a_suffix_rule_does_not_cover_the_suffix_itself(world: World) -> None:
    await world.egress.listen(ONE, world.path(ONE))
    await world.egress.allow(ONE, [EgressRule("*.localhost", world.ports[0])])

    assert not await world.attempt(ONE, "localhost", world.ports[0])
    assert (await heard(world)).reason == "host_not_allowed"


async def test_a_new_policy_replaces_the_old_one_and_closes_what_it_forbids(world: World) -> None:
    first, second = world.ports
    await world.egress.listen(ONE, world.path(ONE))
    await world.egress.allow(ONE, [EgressRule("localhost", first), EgressRule("localhost", second)])
    assert await world.attempt(ONE, "localhost", first)
    assert await world.attempt(ONE, "localhost", second)

    await world.egress.allow(ONE, [EgressRule("localhost", second)])

    assert not await world.is_open(ONE, first)
    assert await world.is_open(ONE, second)
    access = await heard(world)
    assert (access.port, access.allowed, access.reason) == (first, True, "policy_changed")
    assert not await world.attempt(ONE, "localhost", first)


async def test_the_policy_of_one_sandbox_is_not_that_of_another(world: World) -> None:
    for sandbox_id in (ONE, TWO):
        await world.egress.listen(sandbox_id, world.path(sandbox_id))
    await world.egress.allow(ONE, [EgressRule("localhost", world.ports[0])])

    assert await world.attempt(ONE, "localhost", world.ports[0])
    assert not await world.attempt(TWO, "localhost", world.ports[0])
    assert (await heard(world)).sandbox_id == TWO


async def test_allow_without_a_listener_is_not_found(world: World) -> None:
    with pytest.raises(PerstackError) as raised:
        await world.egress.allow(ONE, [EgressRule("localhost")])
    assert (raised.value.kind, raised.value.reason) == (Kind.NOT_FOUND, "egress_not_listening")


@pytest.mark.parametrize("host", ["", "*", "*.", "a.*.example", "xn--bcher-kva.example", "*.xn--p1ai"])
async def test_a_rule_that_is_not_one_is_refused_and_changes_nothing(world: World, host: str) -> None:
    await world.egress.listen(ONE, world.path(ONE))
    await world.egress.allow(ONE, [EgressRule("localhost", world.ports[0])])

    with pytest.raises(PerstackError) as raised:
        await world.egress.allow(ONE, [EgressRule(host)])

    assert (raised.value.kind, raised.value.reason) == (Kind.INVALID, "egress_rule_invalid")
    assert await world.attempt(ONE, "localhost", world.ports[0])


async def test_a_sandbox_has_one_listener(world: World) -> None:
    await world.egress.listen(ONE, world.path(ONE))
    with pytest.raises(PerstackError) as raised:
        await world.egress.listen(ONE, world.path(ONE))
    assert (raised.value.kind, raised.value.reason) == (Kind.ALREADY_EXISTS, "egress_already_listening")


async def test_a_path_that_the_kernel_does_not_take_is_refused_and_leaves_no_listener(world: World) -> None:
    with pytest.raises(PerstackError) as raised:
        await world.egress.listen(ONE, "/tmp/" + "x" * 103)
    assert (raised.value.kind, raised.value.reason) == (Kind.INVALID, "socket_path_too_long")
    with pytest.raises(PerstackError, match="listen first"):
        await world.egress.allow(ONE, [])


async def test_close_ends_and_reports_the_tunnels_before_it_returns(world: World) -> None:
    await world.egress.listen(ONE, world.path(ONE))
    await world.egress.allow(ONE, [EgressRule("localhost", world.ports[0])])
    assert await world.attempt(ONE, "localhost", world.ports[0])

    await world.egress.close(ONE)

    access = world.accesses.get_nowait()
    assert (access.allowed, access.reason) == (True, "listener_closed")
    assert not await world.is_open(ONE, world.ports[0])


async def test_close_is_idempotent_and_a_closed_sandbox_can_listen_again(world: World) -> None:
    await world.egress.close(ONE)
    await world.egress.listen(ONE, world.path(ONE))
    await world.egress.allow(ONE, [EgressRule("localhost", world.ports[0])])
    await world.egress.close(ONE)
    await world.egress.close(ONE)
    with pytest.raises(PerstackError, match="listen first"):
        await world.egress.allow(ONE, [])

    await world.egress.listen(ONE, world.path(ONE))

    assert not await world.attempt(ONE, "localhost", world.ports[0])


async def test_every_observer_hears_every_access_in_order(world: World) -> None:
    ports: list[int] = []
    world.egress.subscribe(lambda access: ports.append(access.port))
    await world.egress.listen(ONE, world.path(ONE))

    for port in world.ports:
        assert not await world.attempt(ONE, "localhost", port)
        await heard(world)

    assert ports == list(world.ports)


async def test_a_dry_run_names_the_rule_and_where_the_name_leads(world: World) -> None:
    port = world.ports[0]
    found = await world.egress.explain(EgressQuestion("LOCALHOST.", port, (EgressRule("localhost", port),)))
    assert (found.allowed, found.reason, found.host, found.rule) == (True, "", "localhost", f"localhost:{port}")
    assert ("127.0.0.1", "") in found.addresses


async def test_a_dry_run_of_a_sandbox_has_the_rules_that_it_has_now(world: World) -> None:
    await world.egress.listen(ONE, world.path(ONE))
    before = await world.egress.explain(EgressQuestion("localhost", 443, sandbox_id=ONE))
    await world.egress.allow(ONE, [EgressRule("localhost", world.ports[0])])
    after = await world.egress.explain(EgressQuestion("localhost", world.ports[0], sandbox_id=ONE))
    other = await world.egress.explain(EgressQuestion("localhost", world.ports[1], sandbox_id=ONE))

    assert (before.allowed, before.reason, before.rule) == (False, "host_not_allowed", "")
    assert 'allowedDomains = ["localhost"]' in before.remedy
    assert "--allow-domain localhost" in before.remedy
    assert after.allowed
    assert (other.reason, other.rule) == ("port_not_allowed", f"localhost:{world.ports[0]}")


async def test_a_dry_run_of_a_sandbox_without_a_listener_is_not_found(world: World) -> None:
    with pytest.raises(PerstackError) as raised:
        await world.egress.explain(EgressQuestion("localhost", sandbox_id=TWO))
    assert (raised.value.kind, raised.value.reason) == (Kind.NOT_FOUND, "egress_not_listening")


async def test_a_sandbox_whose_occupant_has_no_route_has_its_rules_alone(world: World) -> None:
    await world.egress.listen(ONE, world.path(ONE))
    await world.egress.allow(ONE, [EgressRule("localhost", world.ports[0])], Occupant("expert"))

    assert await world.attempt(ONE, "localhost", world.ports[0])
