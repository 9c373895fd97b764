"""A listener in this process, with a resolver of the test's own: what the sandbox sees of names, TLS and limits."""

import asyncio
import shutil
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from perstack_egress.addresses import Address
from perstack_egress.connection import Outcome
from perstack_egress.limits import Limits
from perstack_egress.listener import Listener, Pace
from perstack_egress.policy import Policy, parse_policy
from tests.integration.egress.client import BOUND, Certificate, Client, echo_server, make_certificate

pytestmark = pytest.mark.anyio


class Names:
    """Every name of the table; the answers of one name come in turn, the last for ever."""

    def __init__(self, **names: Sequence[str]) -> None:
        self.names = {name.replace("_", "."): list(answers) for name, answers in names.items()}
        self.asked: list[str] = []

    async def lookup(self, name: str) -> Sequence[Address]:
        self.asked.append(name)
        answers = self.names.get(name, [])
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return (ip_address(answers.pop(0) if len(answers) > 1 else answers[0]),)


class Desk:
    """A running listener."""

    def __init__(self, path: str, listener: Listener, outcomes: "asyncio.Queue[Outcome]", names: Names) -> None:
        self.path = path
        self.listener = listener
        self.outcomes = outcomes
        self.names = names

    def allow(self, *rules: tuple[str, int], networks: Sequence[str] = ("127.0.0.0/8",)) -> None:
        self.listener.set_policy(parse_policy(rules, networks))

    async def outcome(self) -> Outcome:
        async with asyncio.timeout(BOUND):
            return await self.outcomes.get()


@asynccontextmanager
async def running(limits: Limits, names: Names) -> AsyncIterator[Desk]:
    root = Path(tempfile.mkdtemp(prefix="perstack-egress-"))
    path = str(root / "egress.sock")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listening.bind(path)
    listening.listen(16)
    outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
    listener = Listener(listening, limits, names, outcomes.put)
    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(listener.run())
            yield Desk(path, listener, outcomes, names)
            listener.close()
    finally:
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def tls_port(certificate: Certificate) -> AsyncIterator[int]:
    async with echo_server(certificate.server) as port:
        yield port


def names() -> Names:
    return Names(localhost=["127.0.0.1"], a_example=["127.0.0.1"], inside_example=["10.0.0.1"])


async def test_tls_to_the_named_host_passes_and_is_counted(certificate: Certificate, tls_port: int) -> None:
    async with running(Limits(tls_ports=frozenset({tls_port})), names()) as desk:
        desk.allow(("localhost", tls_port))
        async with await Client.dial(desk.path) as client:
            assert (await client.connect("LOCALHOST", tls_port)).status == 200
            await client.start_tls(certificate.client, "localhost")
            assert await client.echo(b"x" * 300_000) == b"x" * 300_000
        outcome = await desk.outcome()
    assert (outcome.host, outcome.allowed, outcome.reason) == ("localhost", True, "")
    assert outcome.counts.up > 300_000
    assert outcome.counts.down > 300_000


@pytest.mark.parametrize(("server_name", "reason"), [("localhost", "sni_mismatch"), (None, "sni_missing")])
async def test_tls_to_another_name_is_refused_with_an_alert(
    tls_port: int, server_name: str | None, reason: str
) -> None:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with running(Limits(tls_ports=frozenset({tls_port})), names()) as desk:
        desk.allow(("a.example", tls_port))
        async with await Client.dial(desk.path) as client:
            assert (await client.connect("a.example", tls_port)).status == 200
            with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
                await client.start_tls(context, server_name or "")
        outcome = await desk.outcome()
    assert (outcome.allowed, outcome.reason, outcome.counts.up) == (False, reason, 0)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b"\x16\x03"])
async def test_what_is_not_tls_never_reaches_the_host(tls_port: int, data: bytes) -> None:
    limits = Limits(tls_ports=frozenset({tls_port}), hello_timeout=0.2)
    async with running(limits, names()) as desk:
        desk.allow(("a.example", tls_port))
        async with await Client.dial(desk.path) as client:
            await client.connect("a.example", tls_port)
            client.writer.write(data)
            await client.ended()
        outcome = await desk.outcome()
    assert (outcome.allowed, outcome.counts.up) == (False, 0)
    assert outcome.reason == ("client_hello_timeout" if data == b"\x16\x03" else "not_tls")


async def test_a_name_is_looked_up_once_so_it_cannot_be_rebound(tls_port: int) -> None:
    table = Names(a_example=["127.0.0.1", "10.0.0.1"])
    async with running(Limits(tls_ports=frozenset()), table) as desk:
        desk.allow(("a.example", tls_port))
        async with await Client.dial(desk.path) as client:
            assert (await client.connect("a.example", tls_port)).status == 200
        async with await Client.dial(desk.path) as client:
            answer = await client.connect("a.example", tls_port)
    assert table.asked == ["a.example", "a.example"]
    assert (answer.status, "allow_addresses" in answer.body) == (403, True)


async def test_a_denied_name_is_not_even_looked_up() -> None:
    async with running(Limits(), names()) as desk, await Client.dial(desk.path) as client:
        answer = await client.connect("a.example", 443)
    assert answer.status == 403
    assert answer.title == "a.example is not in allowedDomains of this sandbox"
    assert 'allowedDomains = ["a.example"]' in answer.body
    assert "perstackctl run --allow-domain a.example" in answer.body
    assert desk.names.asked == []


async def test_an_allowed_name_that_leads_inside_or_nowhere_is_refused() -> None:
    async with running(Limits(), names()) as desk:
        desk.allow(("inside.example", 443), ("nowhere.example", 443), networks=())
        for host, status, reason in (
            ("inside.example", 403, "address_not_global"),
            ("nowhere.example", 502, "resolve_failed"),
        ):
            async with await Client.dial(desk.path) as client:
                answer = await client.connect(host, 443)
            assert (answer.status, reason in answer.headers["proxy-status"]) == (status, True)
            assert (await desk.outcome()).reason == reason


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "2130706433", "0177.0.0.1", "0x7f.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"],
)
async def test_an_address_in_any_notation_is_refused(host: str) -> None:
    async with running(Limits(), names()) as desk:
        desk.allow(("localhost", 443), ("127.0.0.1", 443), networks=("10.0.0.0/8",))
        async with await Client.dial(desk.path) as client:
            answer = await client.connect(host, 443)
        assert (await desk.outcome()).reason == "host_is_address"
    assert answer.status == 403


async def test_an_allowed_address_is_reached_without_a_server_name(tls_port: int, certificate: Certificate) -> None:
    async with running(Limits(tls_ports=frozenset({tls_port})), names()) as desk:
        desk.allow(("127.0.0.1", tls_port))
        async with await Client.dial(desk.path) as client:
            assert (await client.connect("127.0.0.1", tls_port)).status == 200
            await client.start_tls(certificate.client, "127.0.0.1")
            assert await client.echo(b"ping") == b"ping"


async def test_an_end_of_one_side_is_passed_on_and_the_other_may_finish() -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"after the end: " + await reader.read())
        await writer.drain()
        writer.close()

    async with running(Limits(), names()) as desk, await asyncio.start_server(late, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        desk.allow(("localhost", port))
        async with await Client.dial(desk.path) as client:
            await client.connect("localhost", port)
            client.writer.write(b"question")
            client.writer.write_eof()
            assert await client.ended() == b"after the end: question"
        assert (await desk.outcome()).reason == ""


async def test_a_tunnel_that_moves_nothing_is_closed(tls_port: int) -> None:
    async with running(Limits(idle_timeout=0.1, tls_ports=frozenset()), names()) as desk:
        desk.allow(("localhost", tls_port))
        async with await Client.dial(desk.path) as client:
            await client.connect("localhost", tls_port)
            assert await client.ended() == b""
        outcome = await desk.outcome()
    assert (outcome.allowed, outcome.reason) == (True, "idle_timeout")


async def test_a_policy_change_ends_a_connection_that_is_still_being_made() -> None:
    class Stuck(Names):
        reached = asyncio.Event()

        async def lookup(self, name: str) -> Sequence[Address]:
            self.reached.set()
            await asyncio.Event().wait()
            return ()

    table = Stuck()
    async with running(Limits(), table) as desk:
        desk.allow(("a.example", 443))
        async with await Client.dial(desk.path) as client:
            client.writer.write(b"CONNECT a.example:443 HTTP/1.0\r\n\r\n")
            await table.reached.wait()
            desk.listener.set_policy(Policy())
            assert await client.ended() == b""
        outcome = await desk.outcome()
    assert (outcome.host, outcome.allowed, outcome.reason) == ("a.example", False, "policy_changed")


async def test_a_sandbox_over_its_connections_is_told_so_and_a_place_comes_free() -> None:
    async with (
        running(Limits(connections=2, header_timeout=30), names()) as desk,
        await Client.dial(desk.path),
        await Client.dial(desk.path) as second,
    ):
        async with await Client.dial(desk.path) as third:
            answer = await third.ask(b"")
        assert (answer.status, "2 connections" in answer.body) == (503, True)
        assert (await desk.outcome()).reason == "too_many_connections"
        assert (await second.connect("a.example", 443)).status == 403
        await desk.outcome()
        async with await Client.dial(desk.path) as fourth:
            assert (await fourth.connect("a.example", 443)).status == 403


async def test_a_header_that_never_ends_is_cut_by_size_and_by_time() -> None:
    limits = replace(Limits(), header_timeout=0.2)
    async with running(limits, names()) as desk:
        async with await Client.dial(desk.path) as flood:
            answer = await flood.ask(b"CONNECT a.example:443 HTTP/1.1\r\nX: " + b"x" * 9000)
        assert (answer.status, (await desk.outcome()).reason) == (431, "request_too_large")
        async with await Client.dial(desk.path) as loris:
            answer = await loris.ask(b"CONNECT a.exa")
        assert (answer.status, (await desk.outcome()).reason) == (408, "request_timeout")


async def test_a_plain_request_is_told_to_use_https() -> None:
    async with running(Limits(), names()) as desk, await Client.dial(desk.path) as client:
        answer = await client.ask(b"GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n")
    assert (answer.status, answer.headers["allow"], "https" in answer.body) == (405, "CONNECT", True)


async def test_a_client_that_leaves_before_it_asks_is_not_reported() -> None:
    async with running(Limits(), names()) as desk:
        async with await Client.dial(desk.path):
            pass
        async with await Client.dial(desk.path) as client:
            await client.connect("a.example", 443)
        assert (await desk.outcome()).host == "a.example"
        assert desk.outcomes.empty()


def test_connections_are_paced_after_a_burst() -> None:
    pace = Pace(rate=10, burst=2, now=0.0)
    assert [round(pace.take(0.0), 3) for _ in range(4)] == [0, 0, 0.1, 0.2]
    assert pace.take(10.0) == 0


async def test_a_tunnel_is_cut_at_its_bytes_and_no_more_has_passed() -> None:
    limits = Limits(tls_ports=frozenset(), tunnel_bytes=100_000)
    got = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        while data := await reader.read(1 << 16):
            got += len(data)
        writer.close()

    async with running(limits, names()) as desk, await asyncio.start_server(count, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        desk.allow(("localhost", port))
        async with await Client.dial(desk.path) as client:
            await client.connect("localhost", port)
            client.writer.write(b"x" * 300_000)
            assert await client.ended() == b""
        outcome = await desk.outcome()
        async with await Client.dial(desk.path) as client:
            assert (await client.connect("localhost", port)).status == 200
    assert (outcome.allowed, outcome.reason) == (True, "tunnel_bytes_exceeded")
    assert outcome.counts.up == got <= 100_000


async def test_a_sandbox_that_moved_what_it_may_is_cut_and_then_refused_with_the_line_to_change() -> None:
    limits = Limits(tls_ports=frozenset(), sandbox_bytes=1 << 20)
    async with echo_server() as port, running(limits, names()) as desk:
        desk.allow(("localhost", port), ("a.example", 443))
        async with await Client.dial(desk.path) as first, await Client.dial(desk.path) as second:
            for client in (first, second):
                await client.connect("localhost", port)
            second.writer.write(b"x" * 4)
            await second.reader.readexactly(4)
            first.writer.write(b"x" * (3 << 20))
            await first.ended()
            assert (await desk.outcome()).reason == "sandbox_bytes_exceeded"
            second.writer.write(b"y")
            assert await second.ended() == b""
            assert (await desk.outcome()).reason == "sandbox_bytes_exceeded"
        async with await Client.dial(desk.path) as client:
            answer = await client.connect("a.example", 443)
        outcome = await desk.outcome()
    assert (answer.status, outcome.allowed, outcome.reason) == (403, False, "sandbox_bytes_exceeded")
    assert answer.title == "this sandbox has moved the 1 MiB that it may"
    assert "egress.max_sandbox_bytes" in answer.body
    assert desk.names.asked.count("a.example") == 0
