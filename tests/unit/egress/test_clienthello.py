import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstack_egress.clienthello import MAX_BYTES, ClientHello, check_server_name, parse_client_hello
from perstack_egress.refusal import Refused


def real_hello(server_name: str | None = "api.example.com") -> bytes:
    """What OpenSSL sends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=server_name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def record(payload: bytes, kind: int = 22) -> bytes:
    return bytes([kind, 3, 1]) + len(payload).to_bytes(2) + payload


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size) + data


def extension(kind: int, data: bytes) -> bytes:
    return kind.to_bytes(2) + vector(2, data)


def named(*names: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names)))


def handshake(extensions: bytes | None, tail: bytes = b"") -> bytes:
    body = b"\x03\x03" + bytes(32) + vector(1, b"") + vector(2, b"\x13\x01") + vector(1, b"\x00")
    if extensions is not None:
        body += vector(2, extensions)
    return b"\x01" + vector(3, body + tail)


def refusal(data: bytes) -> str:
    with pytest.raises(Refused) as raised:
        parse_client_hello(data)
    return raised.value.reason


def test_the_name_in_a_real_client_hello_is_found() -> None:
    assert parse_client_hello(real_hello("API.example.com")) == ClientHello("api.example.com")


def test_a_client_that_names_no_server_is_told_apart() -> None:
    assert parse_client_hello(real_hello(None)) == ClientHello(None)
    assert parse_client_hello(record(handshake(None))) == ClientHello(None)


def test_every_prefix_of_a_client_hello_asks_for_more() -> None:
    data = real_hello()
    assert all(parse_client_hello(data[:length]) is None for length in range(len(data)))


def test_a_client_hello_may_span_records() -> None:
    message = handshake(named(b"a.example"))
    pieces = b"".join(record(message[at : at + 7]) for at in range(0, len(message), 7))
    assert parse_client_hello(pieces) == ClientHello("a.example")


def test_records_after_the_client_hello_are_not_looked_at() -> None:
    assert parse_client_hello(real_hello() + record(b"early data", 23)) == ClientHello("api.example.com")


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"SSH-2.0-x", b"\x80", b"\x16\x02", b"\x15\x03\x01\x00\x02", b"\x16\xfe\xff"]
)
def test_what_is_not_tls_is_known_from_its_first_bytes(data: bytes) -> None:
    assert refusal(data) == "not_tls"


@pytest.mark.parametrize(
    "data",
    [
        record(b"\x02" + vector(3, b"")),  # a ServerHello
        b"\x16\x03\x01\x00\x00",  # an empty record
        b"\x16\x03\x01\xff\xff",  # a record over 2^14
        record(handshake(named(b"a.example")) + b"\x01"),
        record(handshake(named(b"a.example"), tail=b"x")),
        record(handshake(named(b"a.example") + named(b"b.example"))),  # the extension twice
        record(handshake(named(b"a.example", b"b.example"))),  # two names
        record(handshake(named(b"a.example", kind=1))),
        record(handshake(named(b""))),
        record(handshake(named(b"b\xc3\xbccher.example"))),
        record(handshake(extension(0, b""))),
        record(handshake(extension(0, vector(2, b"\x00\x00\xff")))),
        record(handshake(b"\x00")),
        record(b"\x01" + vector(3, b"\x03\x03")),
        record(b"\x01\x00\x20\x00") + record(b"x") * 100,
    ],
)
def test_a_client_hello_that_contradicts_itself_is_refused(data: bytes) -> None:
    assert refusal(data) == "client_hello_malformed"


def test_a_client_hello_over_16_kib_is_refused() -> None:
    assert refusal(record(b"\x01\x00\x40\x00")) == "client_hello_too_large"
    big = handshake(extension(65000, bytes(16200)) + named(b"a.example"))
    assert len(big) <= MAX_BYTES
    fragments = b"".join(record(big[at : at + 300]) for at in range(0, len(big), 300))
    assert refusal(fragments[:MAX_BYTES]) == "client_hello_too_large"


def check(hello: ClientHello, host: str, *, is_address: bool = False) -> str:
    try:
        check_server_name(hello, host, is_address=is_address)
    except Refused as refused:
        return refused.reason
    return ""


def test_the_server_name_must_be_the_host_that_was_asked_for() -> None:
    assert check(ClientHello("a.example"), "a.example") == ""
    assert check(ClientHello("b.example"), "a.example") == "sni_mismatch"
    assert check(ClientHello("a.example."), "a.example") == "sni_mismatch"
    assert check(ClientHello(None), "a.example") == "sni_missing"


def test_for_an_address_there_is_no_server_name() -> None:
    assert check(ClientHello(None), "10.0.0.1", is_address=True) == ""
    assert check(ClientHello("a.example"), "10.0.0.1", is_address=True) == "sni_mismatch"


@given(st.binary(max_size=300) | st.binary(max_size=200).map(lambda data: record(b"\x01" + vector(3, data))))
def test_any_bytes_are_a_hello_a_wish_for_more_or_a_refusal(data: bytes) -> None:
    try:
        parse_client_hello(data)
    except Refused:
        return


_REAL = real_hello()


@given(st.integers(0, len(_REAL) - 1), st.integers(0, 255), st.integers(0, 40))
def test_a_damaged_real_hello_never_yields_another_name(at: int, byte: int, dropped: int) -> None:
    data = bytearray(_REAL)
    data[at] = byte
    del data[at + 1 : at + 1 + dropped]
    try:
        hello = parse_client_hello(bytes(data))
    except Refused:
        return
    assert hello is None or hello.server_name is None or hello.server_name.isascii()
