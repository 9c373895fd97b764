"""Remote skills over TLS through the sandbox's proxy: the real program, an operator's CA, an egress that decides."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from perstack.v1 import runner_pb2 as pb

from tests.integration.runner.conftest import as_program
from tests.integration.runner.fake_daemon import session
from tests.integration.runner.raw_http import serving

pytestmark = pytest.mark.anyio
HOST = "mcp.skill.test"


def certificate(directory: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate of HOST, which is its own CA, and what serves it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, secret = directory / "ca.pem", directory / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, secret)
    return chain, context


@asynccontextmanager
async def egress(path: Path, port: int, *, allows: bool = True) -> AsyncIterator[list[str]]:
    """The other end of the proxy: takes CONNECT to HOST, and nothing else."""
    asked: list[str] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode()
        asked.append(first)
        if not allows or first != f"CONNECT {HOST}:443 HTTP/1.1":
            writer.write(b"HTTP/1.1 403 mcp.skill.test is not allowed\r\ncontent-length: 0\r\n\r\n")
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        inner, outer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.TaskGroup() as both:
            both.create_task(copy(reader, outer))
            both.create_task(copy(inner, writer))

    server = await asyncio.start_unix_server(accept, path)
    try:
        yield asked
    finally:
        server.close()


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    except ConnectionError:
        return
    finally:
        sink.close()


def skill(endpoint: str = f"https://{HOST}/mcp") -> pb.SkillSpec:
    return pb.SkillSpec(name="s", remote=pb.RemoteServer(transport="http", endpoint=endpoint))


@pytest.mark.parametrize("flags", [(), ("--skills",)], ids=["cold", "warm"])
async def test_a_server_behind_the_proxy_is_reached_with_the_operators_ca(
    place: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    chain, context = certificate(place)
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    async with (
        serving(context) as server,
        egress(place / "egress.sock", server.port) as asked,
        session(place / "r.sock", lambda path: as_program(path, *flags)) as daemon,
    ):
        await daemon.begin("", skills=[skill()], base_tools=[])
        (answer,) = await daemon.results(1, ("echo", {"a": 1}), skill="s")
        assert answer.content[0].text == '{"a": 1}'
        assert set(asked) == {f"CONNECT {HOST}:443 HTTP/1.1"}
        assert {request.headers["host"] for request in server.requests} == {HOST}


async def test_a_certificate_that_no_ca_vouches_for_is_not_accepted(place: Path) -> None:
    _, context = certificate(place)
    async with (
        serving(context) as server,
        egress(place / "egress.sock", server.port),
        session(place / "r.sock", as_program) as daemon,
    ):
        await daemon.begin("", skills=[skill()], base_tools=[])
        assert f"{HOST}: its certificate is not accepted: " in daemon.skill_states[-1].detail
        assert "self" in daemon.skill_states[-1].detail
        assert server.requests == []


async def test_a_host_that_egress_refuses_is_told_with_what_egress_said(place: Path) -> None:
    async with (
        egress(place / "egress.sock", 1, allows=False),
        session(place / "r.sock", as_program) as daemon,
    ):
        await daemon.begin("", skills=[skill()], base_tools=[])
        said = f"{HOST}: the sandbox's way out refused it: 403 {HOST} is not allowed"
        assert daemon.skill_states[-1].detail == said


async def test_an_operators_ca_that_cannot_be_read_is_said_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(place / "none.pem"))
    async with session(place / "r.sock", as_program) as daemon:
        await daemon.begin("", skills=[skill()], base_tools=[])
        assert "the CA bundle of SSL_CERT_FILE cannot be read" in daemon.skill_states[-1].detail
