"""What a client tells the proxy and what names resolve to, where the control needs a host that may be reached: the real
program before servers on loopback, with names of the test's own DNS server.
"""

import asyncio
import json
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from perstackd.adapters.egress import EgressProxy, ProgramOptions
from perstackd.domain.ids import SandboxId
from perstackd.ports.egress import EgressAccess, EgressRule
from tests.escape.verdicts import attack, control
from tests.integration.egress.client import Certificate, Client, echo_server, make_certificate

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
BOX = SandboxId("01K0000000000000000000000A")
ALLOWED, BESIDE = "127.77.0.1", "127.77.0.2"  # of loopback; tests.integration.egress.own_names listens at the first


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: socket paths have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pe-proxy-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def proxy(
    place: Path, port: int, allow: tuple[str, ...] = ("127.0.0.0/8", "::1/128"), *, tls: bool = False
) -> AsyncIterator[tuple[str, "asyncio.Queue[EgressAccess]"]]:
    """The socket of a sandbox that may reach `localhost` at the port, and what is told of its connections."""
    heard: asyncio.Queue[EgressAccess] = asyncio.Queue()
    path = str(place / "egress.sock")
    options = ProgramOptions(tls_ports=(port,) if tls else ())
    async with asyncio.timeout(30), EgressProxy(allow_addresses=allow, options=options) as egress:
        egress.subscribe(heard.put_nowait)
        await egress.listen(BOX, path)
        await egress.allow(BOX, [EgressRule("localhost", port)])
        yield path, heard


async def connected(path: str, host: str, port: int) -> int:
    async with await Client.dial(path) as client:
        answer = await client.connect(host, port)
        if answer.status == 200:
            assert await client.echo(b"ping") == b"ping"
        return answer.status


# --- names and addresses ----------------------------------------------------------------------------------------------
@attack("connect_to_address")
@pytest.mark.parametrize("address", ["127.0.0.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"])
async def test_the_address_of_an_allowed_host_is_refused(place: Path, address: str) -> None:
    async with echo_server() as port, proxy(place, port) as (path, heard):
        assert await connected(path, address, port) == 403
        assert (await heard.get()).reason in {"host_is_address", "host_not_allowed"}


@control("connect_to_address")
async def test_its_name_is_connected(place: Path) -> None:
    async with echo_server() as port, proxy(place, port) as (path, _):
        assert await connected(path, "localhost", port) == 200


@attack("name_of_the_inside")
async def test_an_allowed_name_that_leads_inside_is_refused(place: Path) -> None:
    async with echo_server() as port, proxy(place, port, ()) as (path, heard):
        assert await connected(path, "localhost", port) == 403
        assert (await heard.get()).reason == "address_not_global"


@control("name_of_the_inside")
async def test_it_is_connected_where_the_operator_allows_the_address(place: Path) -> None:
    async with echo_server() as port, proxy(place, port) as (path, _):
        assert await connected(path, "localhost", port) == 200


def rebound(addresses: list[str]) -> list[tuple[int, str]]:
    """Status and reason of two CONNECTs to one name, whose address is another at the second look-up."""
    zone = {"answers": {"rebound.example": [[each] for each in addresses]}, "aliases": {}, "silent": []}
    given = json.dumps({**zone, "ask": ["rebound.example"] * 2})
    command = [sys.executable, "-m", "tests.integration.egress.own_names", given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return [(status, reason) for status, reason in json.loads(done.stdout.splitlines()[-1])["found"][:2]]


@attack("rebinding")
@pytest.mark.parametrize("inside", ["127.0.0.1", BESIDE, "169.254.169.254", "10.0.0.1", "::1"])
def test_a_name_that_is_bound_anew_is_refused(inside: str) -> None:
    assert rebound([ALLOWED, inside]) == [(200, ""), (403, "address_not_global")]


@control("rebinding")
def test_a_name_that_is_bound_anew_to_where_it_may_lead_is_connected() -> None:
    assert rebound([ALLOWED, ALLOWED]) == [(200, ""), (200, "")]


# --- TLS --------------------------------------------------------------------------------------------------------------
async def shaken(path: str, port: int, certificate: Certificate, name: str | None) -> bytes:
    """What comes back through the tunnel, after a handshake that names another host, or none, or `localhost`."""
    async with await Client.dial(path) as client:
        assert (await client.connect("localhost", port)).status == 200
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            await client.start_tls(context, "127.0.0.1" if name is None else name)  # an address is never sent as a name
            return await client.echo(b"ping")
        except (ssl.SSLError, ConnectionError):
            return b""


@attack("other_server_name")
@pytest.mark.parametrize(("name", "reason"), [("other.example", "sni_mismatch"), (None, "sni_missing")])
async def test_a_handshake_for_another_host_goes_nowhere(
    place: Path, certificate: Certificate, name: str | None, reason: str
) -> None:
    async with echo_server(certificate.server) as port, proxy(place, port, tls=True) as (path, heard):
        assert await shaken(path, port, certificate, name) == b""
        access = await heard.get()
        assert (access.allowed, access.reason, access.bytes_up) == (False, reason, 0)


@attack("other_server_name")
async def test_what_is_no_tls_goes_nowhere(place: Path, certificate: Certificate) -> None:
    async with echo_server(certificate.server) as port, proxy(place, port, tls=True) as (path, heard):
        async with await Client.dial(path) as client:
            assert (await client.connect("localhost", port)).status == 200
            client.writer.write(b"GET / HTTP/1.1\r\nHost: other.example\r\n\r\n")
            await client.ended()
        assert not (await heard.get()).allowed


@control("other_server_name")
async def test_a_handshake_for_the_host_itself_is_carried(place: Path, certificate: Certificate) -> None:
    async with echo_server(certificate.server) as port, proxy(place, port, tls=True) as (path, _):
        assert await shaken(path, port, certificate, "localhost") == b"ping"


# --- smuggling --------------------------------------------------------------------------------------------------------
SECOND_READINGS = {
    "another host": "Host: evil.example\r\n",
    "a length": "Content-Length: 5\r\n",
    "chunks": "Transfer-Encoding: chunked\r\n",
    "two hosts": "Host: localhost:PORT\r\nHost: evil.example\r\n",
    "a folded line": "Host: localhost:PORT\r\n evil.example\r\n",
    "a space before the colon": "Host : localhost:PORT\r\n",
}


async def asked(path: str, port: int, headers: str) -> int:
    async with await Client.dial(path) as client:
        request = f"CONNECT localhost:{port} HTTP/1.1\r\n{headers}\r\n".replace("PORT", str(port))
        return (await client.ask(request.encode())).status


@attack("smuggling")
@pytest.mark.parametrize("reading", SECOND_READINGS)
async def test_a_request_with_a_second_reading_is_refused(place: Path, reading: str) -> None:
    async with echo_server() as port, proxy(place, port) as (path, heard):
        assert await asked(path, port, SECOND_READINGS[reading]) == 400
        assert (await heard.get()).reason == "request_malformed"


@control("smuggling")
async def test_the_same_request_without_it_is_connected(place: Path) -> None:
    async with echo_server() as port, proxy(place, port) as (path, _):
        assert await asked(path, port, "Host: localhost:PORT\r\n") == 200
