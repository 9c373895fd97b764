"""What the examples' stand-ins for servers of the Internet share: HTTPS on this machine, with their own authority.

A stand-in answers at port 443, because that is where a sandbox's way out leads, under this machine's own name: programs
do not ask a proxy for `localhost`. It listens at the one address that the machine's name has.
"""

import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PORT: Final = 443
SECONDS: Final = 30
MOST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. `path` has its query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """A status and what becomes JSON."""

    status: int
    content: Any


class StandIn(Protocol):
    """What a stand_in.py has in its class StandIn, which is made from the script's `env`."""

    def answer(self, asked: Asked) -> Reply:
        """The reply to a request."""
        ...

    def summary(self) -> str:
        """What came of it, for people."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stand-in answers: the machine's `name`, its `address`, and the `authority` (PEM) that vouches for it."""

    name: str
    address: str
    authority: Path


def of(example: str, env: Mapping[str, str]) -> StandIn:
    """The stand-in of an example."""
    return cast("StandIn", import_module(f"examples.{example}.stand_in").StandIn(dict(env)))


def place(directory: Path) -> Place:
    """This machine as a stand-in's place, with a new authority in `directory`.

    Raises:
        OSError: the machine's name has no address.
    """
    name = socket.gethostname().lower()
    found = socket.getaddrinfo(name, PORT, socket.AF_INET, socket.SOCK_STREAM)
    _certify(name, directory)
    return Place(name, str(found[0][4][0]), directory / "authority.pem")


@contextmanager
def serving(stand_in: StandIn, where: Place) -> Iterator[None]:
    """Answer at the place until the end of the body. Raises OSError when its port is taken."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(where.authority.with_name("server.pem"))
    try:
        server = _Server((where.address, PORT), _handler(stand_in))
    except OSError as error:
        raise OSError(
            f"{where.address}:{PORT} is needed for the stand-in: {error.strerror}; end what listens there"
        ) from error
    server.context = context
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="stand-in")
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(SECONDS)
        server.server_close()


class _Server(ThreadingHTTPServer):
    """Speaks TLS in the threads of its connections, so that one that says nothing holds up no other."""

    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(SECONDS)
        with self.context.wrap_socket(request, server_side=True) as connection:
            super().finish_request(connection, client_address)


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    one_at_a_time = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply()

        def do_POST(self) -> None:
            self._reply()

        def _reply(self) -> None:
            body = self.rfile.read(min(int(self.headers.get("Content-Length", "0")), MOST_BYTES))
            with one_at_a_time:
                reply = stand_in.answer(Asked(self.command, self.path, dict(self.headers), body))
            content = json.dumps(reply.content).encode()
            self.send_response(reply.status)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
            """Nothing is logged: requests carry tokens."""

    return Handler


def _certify(name: str, directory: Path) -> None:
    """authority.pem, and server.pem with a key and the certificate of `name`."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _signed("stand-in authority", authority_key.public_key(), "stand-in authority", authority_key)
    certificate = _signed(name, key.public_key(), "stand-in authority", authority_key)
    (directory / "authority.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "server.pem").write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))


def _signed(
    name: str, key: ec.EllipticCurvePublicKey, issuer: str, signer: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    now = datetime.now(UTC)
    is_authority = name == issuer
    extensions: list[tuple[x509.ExtensionType, bool]] = [(x509.BasicConstraints(is_authority, None), True)]
    if not is_authority:
        extensions.append((x509.SubjectAlternativeName([x509.DNSName(name)]), False))
    builder = x509.CertificateBuilder(
        issuer_name=_named(issuer),
        subject_name=_named(name),
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(minutes=5),
        not_valid_after=now + timedelta(days=1),
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
