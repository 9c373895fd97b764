"""The relay that others stand on ends in any moment of its connections, and leaves nothing half open."""

import gc
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from examples.stand_in import Place, place
from tests.e2e.tls_relay import tls

ASKED = b"GET /mcp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\n"
HALF_A_HELLO = bytes.fromhex("160301020001")
SECONDS = 10


@pytest.fixture
def where(tmp_path: Path) -> Place:
    return place(tmp_path)


@contextmanager
def behind() -> Iterator[socket.socket]:
    """What listens behind the relay."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SECONDS)
        yield server


def raw(where: Place, port: int) -> socket.socket:
    return socket.create_connection((where.address, port), SECONDS)


def half(where: Place, port: int) -> socket.socket:
    dialled = raw(where, port)
    dialled.sendall(HALF_A_HELLO)
    return dialled


def whole(where: Place, port: int) -> socket.socket:
    context = ssl.create_default_context(cafile=str(where.authority))
    return context.wrap_socket(raw(where, port), server_hostname=where.name)


def test_bytes_pass_both_ways_and_headers_are_seen(where: Place) -> None:
    with behind() as server, tls(where, server.getsockname()[1]) as (port, seen), whole(where, port) as caller:
        caller.sendall(ASKED)
        inner, _ = server.accept()
        with inner:
            assert inner.recv(4096) == ASKED
            inner.sendall(b"answer")
            assert caller.recv(100) == b"answer"
        assert caller.recv(100) == b""
    assert seen == [{"host": "x", "authorization": "Bearer t"}]


@pytest.mark.parametrize("dial", [raw, half, whole])
def test_it_ends_while_a_connection_is_begun(where: Place, dial: Callable[[Place, int], socket.socket]) -> None:
    with behind() as server, ExitStack() as callers:
        with tls(where, server.getsockname()[1]) as (port, _):
            ends = [callers.enter_context(dial(where, port)) for _ in range(20)]
        for end in ends:
            try:
                assert end.recv(100) == b""
            except ConnectionResetError:
                pass  # it had not read what was sent
            except ssl.SSLEOFError:
                pass  # closed without TLS's own goodbye
    gc.collect()  # what was left open would warn, and a warning is an error
