import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from perstack_runner import proxy
from perstack_runner.proxy import Proxy

from tests.free_port import free_port

pytestmark = pytest.mark.anyio


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"<end>")
    writer.close()


@pytest.fixture
async def egress(tmp_path: Path) -> AsyncIterator[str]:
    path = str(tmp_path / "e.sock")
    server = await asyncio.start_unix_server(echo, path)
    yield path
    server.close()


@pytest.fixture
async def joined(egress: str) -> AsyncIterator[Proxy]:
    made = Proxy(egress, 0)
    await made.start()
    yield made
    await made.close()


async def talk(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


async def test_bytes_pass_unchanged_and_each_direction_ends_by_itself(joined: Proxy) -> None:
    data = bytes(range(256)) * 4000
    assert await talk(joined.port, data) == data + b"<end>"


async def test_the_port_of_routes_leads_to_the_same_place(joined: Proxy) -> None:
    assert joined.route_port != joined.port
    assert await talk(joined.route_port, b"GET /api/ HTTP/1.1") == b"GET /api/ HTTP/1.1<end>"


async def test_routes_are_asked_for_at_the_next_port() -> None:
    assert Proxy("/gw/egress.sock").route_port == proxy.PORT + 1 == 3129


async def test_a_taken_port_leaves_neither_open(egress: str) -> None:
    first = free_port(2)
    async with await asyncio.start_server(echo, "127.0.0.1", first + 1):
        made = Proxy(egress, first)
        with pytest.raises(OSError, match="in use"):
            await made.start()
        with pytest.raises(OSError, match=r"refused|failed"):
            await asyncio.open_connection("127.0.0.1", made.port)


async def test_many_connections_at_once_are_kept_apart(joined: Proxy) -> None:
    answers = await asyncio.gather(*[talk(joined.port, b"%d" % number) for number in range(50)])
    assert answers == [b"%d<end>" % number for number in range(50)]


async def test_connections_beyond_the_bound_are_refused(joined: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "MAX_CONNECTIONS", 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", joined.port)
    writer.write(b"x")
    assert await reader.readexactly(1) == b"x"
    second, other = await asyncio.open_connection("127.0.0.1", joined.port)
    assert (await second.readline()).startswith(b"HTTP/1.1 503")
    for open_writer in (writer, other):
        open_writer.close()


async def test_without_an_egress_socket_clients_are_told(tmp_path: Path) -> None:
    made = Proxy(str(tmp_path / "none.sock"), 0)
    await made.start()
    assert (await talk(made.port, b"")).startswith(b"HTTP/1.1 503")
    await made.close()


async def test_closing_cuts_connections_and_frees_the_port(egress: str) -> None:
    port = free_port(2)
    made = Proxy(egress, port)
    await made.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x")
    await reader.readexactly(1)
    await made.close()
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    again = Proxy(egress, port)
    await again.start()
    await again.close()
