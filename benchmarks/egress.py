"""egress: what the proxy adds to opening a TLS connection, against a direct dial of the same server in the same run."""

import asyncio
import datetime
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from benchmarks.failure import MeasurementError
from benchmarks.options import Options
from benchmarks.quantiles import quantile, spread
from benchmarks.targets import Result, judged
from perstackd.adapters.egress import EgressProxy, ProgramOptions
from perstackd.domain.ids import SandboxId
from perstackd.ports.egress import EgressRule

HOST: Final = "localhost"
EACH: Final = 150
"""Connections of one sandbox: after a burst of 200 the proxy slows a sandbox down, which is not what is measured."""
_WARM_UP: Final = 10
_BOUND: Final = 10.0
_OK: Final = b"HTTP/1.1 200 "


def measure(options: Options) -> Iterator[Result]:
    """One connection at a time, direct and through the proxy in turn: dial, CONNECT, TLS handshake, one byte there and
    back.
    """
    direct, proxied = uvloop.run(_measured(options.of(4, 40)))
    detail = {"direct": spread(direct), "proxied": spread(proxied)}
    yield judged("egress.added_p50_ms", quantile(proxied, 0.5) - quantile(direct, 0.5), detail)
    yield judged("egress.added_p99_ms", quantile(proxied, 0.99) - quantile(direct, 0.99), detail)


async def _measured(sandboxes: int) -> tuple[list[float], list[float]]:
    direct: list[float] = []
    proxied: list[float] = []
    with tempfile.TemporaryDirectory(prefix="pb-") as directory:
        root = Path(directory)
        context = _client_context()
        async with _echo(root) as port, _proxy(port) as egress:
            for number in range(sandboxes):
                sandbox_id, path = SandboxId(f"{number:026d}"), str(root / f"{number}.sock")
                await egress.listen(sandbox_id, path)
                await egress.allow(sandbox_id, [EgressRule(HOST, port)])
                for place in range(EACH):
                    pair = await _direct(port, context), await _through(path, port, context)
                    if number or place >= _WARM_UP:
                        direct.append(pair[0])
                        proxied.append(pair[1])
                await egress.close(sandbox_id)
    return direct, proxied


def _proxy(port: int) -> EgressProxy:
    return EgressProxy(allow_addresses=("127.0.0.0/8", "::1/128"), options=ProgramOptions(tls_ports=(port,)))


async def _direct(port: int, context: ssl.SSLContext) -> float:
    began = time.perf_counter()
    async with asyncio.timeout(_BOUND):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        return await _finish(reader, writer, context, began)


async def _through(path: str, port: int, context: ssl.SSLContext) -> float:
    began = time.perf_counter()
    async with asyncio.timeout(_BOUND):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(f"CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(_OK):
            raise MeasurementError(f"the proxy answered {answer.splitlines()[0]!r}: is {HOST} in /etc/hosts?")
        return await _finish(reader, writer, context, began)


async def _finish(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext, began: float
) -> float:
    await writer.start_tls(context, server_hostname=HOST)
    writer.write(b"x")
    await reader.readexactly(1)
    taken = (time.perf_counter() - began) * 1000
    writer.transport.abort()
    return taken


@asynccontextmanager
async def _echo(root: Path) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1024):
                writer.write(data)
        except (ConnectionError, ssl.SSLError):
            pass  # the client leaves without a word, as it is measured
        finally:
            writer.transport.abort()

    context = await asyncio.to_thread(_server_context, root)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def _client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _server_context(root: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=12))
        .sign(key, hashes.SHA256())
    )
    pem = (
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        certificate.public_bytes(serialization.Encoding.PEM),
    )
    path = root / "server.pem"
    path.write_bytes(b"".join(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context
