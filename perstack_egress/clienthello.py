"""PURE. Finds the server name in a TLS ClientHello that arrives in pieces (RFC 8446 section 4.1.2, RFC 6066 section 3).

It reads no more than it needs and believes no length: every one is checked against what contains it.
"""

from dataclasses import dataclass
from typing import Final

from perstack_egress.refusal import Refused

MAX_BYTES: Final = 16384

_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_RECORD_HEADER: Final = 5
_MAX_RECORD: Final = 16384
# Each piece that arrives is parsed from the start again: without a bound, records of one byte would make that dear.
_MAX_RECORDS: Final = 64
_SERVER_NAME: Final = 0


@dataclass(frozen=True, slots=True)
class ClientHello:
    """A complete ClientHello. `server_name` is lower-case, or None when the client sent none."""

    server_name: str | None


def parse_client_hello(data: bytes) -> ClientHello | None:
    """The ClientHello at the start of `data`; None when more bytes are needed. It may span records.

    Raises:
        Refused: not_tls, client_hello_malformed, client_hello_too_large (over 16 KiB), and nothing else.
    """
    message = _message(data)
    if message is None:
        if len(data) >= MAX_BYTES:
            raise Refused("client_hello_too_large", "the ClientHello is larger than 16 KiB")
        return None
    return ClientHello(_server_name(_extensions(_Reader(message))))


def check_server_name(hello: ClientHello, host: str, *, is_address: bool) -> None:
    """Let a ClientHello pass that names the CONNECT host. For an address there must be no name (RFC 6066).

    Raises:
        Refused: sni_missing, sni_mismatch.
    """
    if hello.server_name is None and not is_address:
        raise Refused("sni_missing", f"the TLS client named no server, it must name {host}")
    if hello.server_name is not None and (is_address or hello.server_name != host):
        raise Refused("sni_mismatch", f"the TLS client named another server than {host}")


class _Reader:
    """Takes from the front of a message; taking more than there is means that a length lied."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, length: int) -> bytes:
        if len(self._data) - self._at < length:
            raise Refused("client_hello_malformed", "a length in the ClientHello is wrong")
        self._at += length
        return self._data[self._at - length : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))


def _message(data: bytes) -> bytes | None:
    """The body of the handshake message, joined over records; None while incomplete."""
    joined = bytearray()
    at = 0
    for _ in range(_MAX_RECORDS):
        _check_record(data[at : at + _RECORD_HEADER])
        if len(data) < at + _RECORD_HEADER:
            return None
        length = int.from_bytes(data[at + 3 : at + 5])
        joined += data[at + _RECORD_HEADER : at + _RECORD_HEADER + length]
        wanted = _wanted(joined)
        if wanted is not None and len(joined) >= wanted:
            # A ClientHello stands alone in its flight until the server answers.
            if len(joined) > wanted:
                raise Refused("client_hello_malformed", "something follows the ClientHello in its record")
            return bytes(joined[4:wanted])
        at += _RECORD_HEADER + length
    raise Refused("client_hello_malformed", "the ClientHello is cut into too many records")


def _check_record(header: bytes) -> None:
    """Refuse as early as the bytes allow: a client that waits for our answer may never send five."""
    if (header[:1] and header[0] != _HANDSHAKE) or (len(header) > 1 and header[1] != 3):
        raise Refused("not_tls", "this tunnel is for TLS, and the client sent something else")
    if len(header) == _RECORD_HEADER and not 1 <= int.from_bytes(header[3:5]) <= _MAX_RECORD:
        raise Refused("client_hello_malformed", "a TLS record has an impossible length")


def _wanted(joined: bytearray) -> int | None:
    """Length of the handshake message with its header, once its header is there."""
    if joined and joined[0] != _CLIENT_HELLO:
        raise Refused("client_hello_malformed", "the first TLS message is not a ClientHello")
    if len(joined) < 4:
        return None
    wanted = 4 + int.from_bytes(joined[1:4])
    if wanted > MAX_BYTES:
        raise Refused("client_hello_too_large", "the ClientHello is larger than 16 KiB")
    return wanted


def _extensions(hello: _Reader) -> dict[int, bytes]:
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # session id
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression methods
    if not hello:
        return {}
    block = _Reader(hello.vector(2))
    if hello:
        raise Refused("client_hello_malformed", "something follows the extensions of the ClientHello")
    found: dict[int, bytes] = {}
    while block:
        kind, content = block.number(2), block.vector(2)
        if kind in found:
            raise Refused("client_hello_malformed", "an extension of the ClientHello comes twice")
        found[kind] = content
    return found


def _server_name(extensions: dict[int, bytes]) -> str | None:
    content = extensions.get(_SERVER_NAME)
    if content is None:
        return None
    outer = _Reader(content)
    names = _Reader(outer.vector(2))
    kind, name = names.number(1), names.vector(2)
    if outer or names or kind != 0 or not name or not name.isascii():
        raise Refused("client_hello_malformed", "the server name extension is not one host name")
    return name.decode("ascii").lower()
