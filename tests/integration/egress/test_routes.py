"""Origin routes over the real process: what the origin gets, what the sandbox gets, and what neither can do."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from perstackd.adapters.egress import EgressProxy, ProgramOptions
from perstackd.adapters.egress.routes import OriginRoute, OriginRoutes
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.ports.egress import EgressAccess, Occupant
from tests.integration.egress.client import BOUND, Certificate, Client, make_certificate
from tests.integration.egress.origin_server import OK, Origin, origin

pytestmark = pytest.mark.anyio

ONE = SandboxId("01K0000000000000000000000A")
TWO = SandboxId("01K0000000000000000000000B")
EXPERT = Occupant("issues")
TOKEN = "tok-5ecre7"
STORED = "stored-0123456789abcdef"
GET = b"GET /api/items?page=2 HTTP/1.1\r\nHost: 127.0.0.1:3129\r\n\r\n"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="perstack-egress-"))
    yield path
    shutil.rmtree(path)


class Desk:
    """A proxy with one route, `api`, and a sandbox that has it."""

    def __init__(self, egress: EgressProxy, path: str, server: Origin) -> None:
        self.egress, self.path, self.origin = egress, path, server
        self.heard: asyncio.Queue[EgressAccess] = asyncio.Queue()
        self.secrets: dict[str, str] = {"TOKEN": TOKEN}
        egress.subscribe(self.heard.put_nowait)

    async def ask(self, request: bytes, path: str = "") -> bytes:
        """All that comes back for the bytes of a request."""
        async with asyncio.timeout(BOUND), await Client.dial(path or self.path) as client:
            client.writer.write(request)
            return await client.reader.read()

    async def access(self) -> EgressAccess:
        async with asyncio.timeout(BOUND):
            return await self.heard.get()


@asynccontextmanager
async def desk(
    root: Path, certificate: Certificate, options: ProgramOptions | None = None, ca_bundle: str | None = None
) -> AsyncIterator[Desk]:
    secrets = {"TOKEN": TOKEN, "STORED": STORED}
    async with origin(certificate.server) as server:
        headers = (("Authorization", "Bearer ${TOKEN}"), ("X-Team", "perstack"), ("X-Stored", "${secret:STORED}"))
        route = OriginRoute("api", "localhost", server.port, headers, frozenset({"issues"}))
        bundle = str(certificate.path) if ca_bundle is None else ca_bundle
        egress = EgressProxy(
            allow_addresses=("127.0.0.0/8",),
            options=replace(options or ProgramOptions(), ca_bundle=bundle),
            routes=OriginRoutes((route,), secrets.get, secrets.get),
        )
        async with egress:
            at = Desk(egress, str(root / "egress.sock"), server)
            at.secrets = secrets
            await egress.listen(ONE, at.path)
            await egress.allow(ONE, [], EXPERT)
            yield at


async def test_the_origin_gets_the_request_with_the_headers_and_the_sandbox_the_answer(
    root: Path, certificate: Certificate
) -> None:
    async with desk(root, certificate) as at:
        answer = await at.ask(GET)
        access = await at.access()
    (seen,) = at.origin.seen
    assert seen.head.startswith("GET /items?page=2 HTTP/1.1\r\n")
    assert seen.fields["host"] == f"localhost:{at.origin.port}"
    assert (seen.fields["authorization"], seen.fields["x-team"]) == (f"Bearer {TOKEN}", "perstack")
    assert seen.fields["x-stored"] == STORED
    assert STORED.encode() not in answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], body) == (b"HTTP/1.1 200 OK", b"ok")
    assert TOKEN.encode() not in answer
    assert (access.host, access.port, access.allowed, access.reason) == ("localhost", at.origin.port, True, "")
    assert (access.bytes_up > len(TOKEN), access.bytes_down > 2) == (True, True)


async def test_a_sandbox_cannot_set_what_the_route_sets_nor_what_is_for_one_hop(
    root: Path, certificate: Certificate
) -> None:
    request = (
        b"GET /api/ HTTP/1.1\r\nHost: localhost\r\nauthorization: Bearer mine\r\nX-Own: kept\r\nConnection: x-drop\r\n"
        b"X-Drop: 1\r\nKeep-Alive: 5\r\nProxy-Authorization: no\r\nUpgrade: h2c\r\nTE: trailers\r\n\r\n"
    )
    async with desk(root, certificate) as at:
        await at.ask(request)
    fields = at.origin.seen[0].fields
    assert (fields["authorization"], fields["x-own"]) == (f"Bearer {TOKEN}", "kept")
    assert at.origin.seen[0].head.lower().count("authorization:") == 1
    dropped = {"x-drop", "keep-alive", "proxy-authorization", "upgrade", "te"}
    assert (dropped & set(fields), fields["connection"]) == (set(), "close")


async def test_bodies_stream_both_ways_while_both_sides_still_speak(root: Path, certificate: Certificate) -> None:
    body = os.urandom(300_000)
    request = b"POST /api/up HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with desk(root, certificate) as at, asyncio.timeout(BOUND):
        at.origin.hold = asyncio.Event()
        at.origin.after_body = len(body)
        at.origin.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst \r\n"
        async with await Client.dial(at.path) as client:
            client.writer.write(request + body[:1000])
            await client.writer.drain()
            client.writer.write(body[1000:])
            head = await client.reader.readuntil(b"\r\n\r\n")
            first = await client.reader.readuntil(b"first ")  # the origin has not ended its answer
    assert bytes(at.origin.seen[0].body) == body
    assert b"transfer-encoding: chunked" in head.lower()
    assert first == b"6\r\nfirst "


async def test_a_chunked_body_is_framed_anew_and_its_trailers_end_here(root: Path, certificate: Certificate) -> None:
    request = (
        b"POST /api/up HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4;ext=1\r\nbody\r\n0\r\nX-Trailer: authorization\r\n\r\n"
    )
    framed = b"4\r\nbody\r\n0\r\n\r\n"
    async with desk(root, certificate) as at:
        at.origin.after_body = len(framed)
        assert b"200 OK" in await at.ask(request)
    assert bytes(at.origin.seen[0].body) == framed


async def test_a_client_that_waits_for_the_word_to_go_on_gets_it(root: Path, certificate: Certificate) -> None:
    request = b"PUT /api/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    async with desk(root, certificate) as at, asyncio.timeout(BOUND):
        at.origin.after_body = 4
        async with await Client.dial(at.path) as client:
            client.writer.write(request)
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            client.writer.write(b"body")
            assert (await client.reader.read()).startswith(b"HTTP/1.1 200 OK")
    assert "expect" not in at.origin.seen[0].fields


@pytest.mark.parametrize("status", [b"301 Moved", b"307 Temporary Redirect"])
async def test_a_redirect_goes_back_and_is_not_followed(root: Path, certificate: Certificate, status: bytes) -> None:
    location = b"https://elsewhere.example/"
    async with desk(root, certificate) as at:
        at.origin.answer = b"HTTP/1.1 %s\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, location)
        answer = await at.ask(GET)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"location: " + location in answer.lower()
    assert at.origin.connections == 1


async def test_an_origin_whose_certificate_is_not_known_gets_no_byte_of_the_request(
    root: Path, certificate: Certificate, tmp_path: Path
) -> None:
    other = make_certificate(tmp_path)
    async with desk(root, certificate, ca_bundle=str(other.path)) as at:
        answer = await at.ask(GET)
        access = await at.access()
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert (access.allowed, access.reason, at.origin.seen) == (False, "origin_tls_failed", [])


async def test_an_origin_that_is_another_than_the_certificate_says_is_refused(
    root: Path, certificate: Certificate, tmp_path: Path
) -> None:
    other = make_certificate(tmp_path, name="other.example")
    async with desk(root, other) as at:
        answer = await at.ask(GET)
        assert (await at.access()).reason == "origin_tls_failed"
    assert answer.startswith(b"HTTP/1.1 502 ")


async def test_a_sandbox_has_the_routes_of_its_occupant_and_no_other(root: Path, certificate: Certificate) -> None:
    async with desk(root, certificate) as at:
        second = str(root / "two.sock")
        await at.egress.listen(TWO, second)
        for occupant in (Occupant("other"), Occupant("issues", ("tracker",), own=True)):
            await at.egress.allow(TWO, [], occupant)
            answer = await at.ask(GET, second)
            assert answer.startswith(b"HTTP/1.1 404 ")
            assert b"egress.routes" in answer
            access = await at.access()
            assert (access.sandbox_id, access.host, access.reason) == (TWO, "/api", "route_unknown")
    assert at.origin.connections == 0


async def test_a_route_that_is_taken_away_ends_the_request_that_is_under_way(
    root: Path, certificate: Certificate
) -> None:
    async with desk(root, certificate) as at, asyncio.timeout(BOUND):
        at.origin.hold = asyncio.Event()
        at.origin.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"
        async with await Client.dial(at.path) as client:
            client.writer.write(GET)
            await client.reader.readuntil(b"part")
            await at.egress.allow(ONE, [], None)
            assert await client.ended() == b""
        assert (await at.access()).reason == "policy_changed"


async def test_a_value_is_the_one_of_the_moment_the_occupant_moves_in_and_must_be_there(
    root: Path, certificate: Certificate
) -> None:
    async with desk(root, certificate) as at:
        at.secrets["TOKEN"] = "rotated"
        await at.egress.allow(ONE, [], EXPERT)
        await at.ask(GET)
        del at.secrets["TOKEN"]
        with pytest.raises(PerstackError) as raised:
            await at.egress.allow(ONE, [], EXPERT)
        at.secrets["TOKEN"] = "two\r\nX-Injected: lines"
        with pytest.raises(PerstackError, match="no header can carry") as injected:
            await at.egress.allow(ONE, [], EXPERT)
    assert at.origin.seen[0].fields["authorization"] == "Bearer rotated"
    assert (raised.value.kind, raised.value.reason) == (Kind.PRECONDITION, "egress_secret_missing")
    assert ("TOKEN" in raised.value.message, "lines" in str(injected.value)) == (True, False)


async def test_a_new_process_has_the_routes_of_the_old_one(root: Path, certificate: Certificate) -> None:
    async with desk(root, certificate) as at:
        assert at.egress.pid is not None
        os.kill(at.egress.pid, 9)
        assert (await at.ask(GET)).endswith(b"ok")


async def test_what_can_be_read_in_two_ways_reaches_no_origin(root: Path, certificate: Certificate) -> None:
    host = b"Host: 127.0.0.1\r\n"
    async with desk(root, certificate) as at:
        for request in (
            b"POST /api/ HTTP/1.1\r\n" + host + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /api/ HTTP/1.1\r\n" + host + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nbody!",
            b"POST /api/ HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
            b"POST /api/ HTTP/1.1\r\n" + host + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            b"POST /api/ HTTP/1.1\r\n" + host + b"Content-Length: +4\r\n\r\nbody",
            b"GET /api/ HTTP/1.1\r\n" + host + b"X: a\r\n folded\r\n\r\n",
            b"GET /api/ HTTP/1.1\r\n" + host + b"X: a\nY: b\r\n\r\n",
            b"GET /api/ HTTP/1.1\r\n" + host + b"X : a\r\n\r\n",
            b"GET /api/ HTTP/1.1\r\n" + host + host + b"\r\n",
            b"GET /api/ HTTP/1.0\r\n" + host + b"\r\n",
            b"GET /api/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        ):
            assert (await at.ask(request)).startswith(b"HTTP/1.1 400 "), request
            assert (await at.access()).reason == "request_malformed"
    assert at.origin.seen == []


async def test_a_second_request_behind_the_first_is_not_carried_out(root: Path, certificate: Certificate) -> None:
    async with desk(root, certificate) as at:
        answer = await at.ask(GET + b"GET /api/second HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 1
    assert b"connection: close" in answer.lower()
    assert len(at.origin.seen) == 1


async def test_a_chunked_body_that_lies_is_cut_and_the_origin_sees_no_end_of_it(
    root: Path, certificate: Certificate
) -> None:
    request = b"POST /api/up HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbodyGET /x\r\n\r\n"
    async with desk(root, certificate) as at:
        at.origin.after_body = 1 << 20
        answer = await at.ask(request)
        access = await at.access()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert access.reason == "request_malformed"
    assert b"0\r\n\r\n" not in bytes(at.origin.seen[0].body)


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b""]
)
async def test_an_origin_that_gives_no_answer_is_said_so(root: Path, certificate: Certificate, answer: bytes) -> None:
    async with desk(root, certificate) as at:
        at.origin.answer = answer
        got = await at.ask(GET)
        access = await at.access()
    assert got.startswith(b"HTTP/1.1 502 ")
    assert (access.allowed, access.reason) == (False, "origin_failed")


async def test_an_answer_that_breaks_off_is_not_made_whole(root: Path, certificate: Certificate) -> None:
    async with desk(root, certificate) as at:
        at.origin.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"
        got = await at.ask(GET)
        access = await at.access()
    assert b"part" in got
    assert not got.endswith(b"0\r\n\r\n")
    assert (access.allowed, access.reason) == (True, "origin_failed")


async def test_an_answer_over_the_limit_is_cut_and_one_that_says_nothing_is_given_up(
    root: Path, certificate: Certificate
) -> None:
    options = ProgramOptions(tunnel_bytes=100_000, idle_timeout=0.3)
    async with desk(root, certificate, options) as at:
        at.origin.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n" + b"x" * 400_000
        assert len(await at.ask(GET)) <= 100_000
        access = await at.access()
        assert (access.allowed, access.reason) == (True, "tunnel_bytes_exceeded")
        at.origin.hold, at.origin.answer = asyncio.Event(), b""
        assert (await at.ask(GET)).startswith(b"HTTP/1.1 502 ")
        assert (await at.access()).reason == "origin_failed"


async def test_an_answer_before_the_end_of_the_request_is_passed_on(root: Path, certificate: Certificate) -> None:
    async with desk(root, certificate) as at, asyncio.timeout(BOUND):
        at.origin.answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
        async with await Client.dial(at.path) as client:
            client.writer.write(b"POST /api/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n")
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")


async def test_a_route_leads_to_a_private_address_only_where_the_operator_allows_it(
    root: Path, certificate: Certificate
) -> None:
    route = OriginRoute("api", "localhost", 443, (), frozenset({"issues"}))
    async with EgressProxy(
        options=ProgramOptions(ca_bundle=str(certificate.path)), routes=OriginRoutes((route,))
    ) as egress:
        heard: asyncio.Queue[EgressAccess] = asyncio.Queue()
        egress.subscribe(heard.put_nowait)
        await egress.listen(ONE, str(root / "egress.sock"))
        await egress.allow(ONE, [], EXPERT)
        async with asyncio.timeout(BOUND), await Client.dial(str(root / "egress.sock")) as client:
            client.writer.write(GET)
            assert (await client.reader.read()).startswith(b"HTTP/1.1 403 ")
        assert (await heard.get()).reason == "address_not_global"


async def test_answers_without_a_body_end(root: Path, certificate: Certificate) -> None:
    async with desk(root, certificate) as at:
        at.origin.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"
        head = await at.ask(GET.replace(b"GET", b"HEAD"))
        at.origin.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
        none = await at.ask(GET.replace(b"GET", b"DELETE"))
    assert b"content-length: 12345" in head.lower()
    assert none.startswith(b"HTTP/1.1 204 ")
    assert OK not in none
