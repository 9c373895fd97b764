"""Remote skills whose connections break, are made again, or flood; and the older transport, SSE."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from perstack.v1 import runner_pb2 as pb

from tests.integration.runner.conftest import in_process
from tests.integration.runner.fake_daemon import FakeDaemon, session, value_of
from tests.integration.runner.raw_http import RawHttp, Request, response, result, serving, stream
from tests.integration.runner.remote_skill import SECRET, echo, failed, remote
from tests.integration.runner.test_skills import states

pytestmark = pytest.mark.anyio


# --- connections ----------------------------------------------------------------------------------------------------
async def test_a_broken_connection_is_an_error_of_its_call_and_made_again_for_the_next_as_often_as_it_serves(
    daemon: FakeDaemon, workspace: Path, http: RawHttp
) -> None:
    def cut(request: Request, writer: asyncio.StreamWriter) -> bytes:
        writer.transport.abort()
        return b""

    await daemon.begin(workspace, skills=[remote(http)])
    for step in range(1, 13, 2):
        http.modes = {"tools/call": cut}
        (answer,) = await daemon.results(step, ("echo", {}), skill="s")
        assert value_of(answer)["error"] == "skill_disconnected"
        assert "may or may not have taken effect" in value_of(answer)["message"]
        http.modes = {}
        assert await echo(daemon, step + 1) == json.dumps({"step": step + 1})


async def test_a_server_that_never_serves_is_given_up_after_four_starts(
    daemon: FakeDaemon, workspace: Path, http: RawHttp
) -> None:
    def cut(request: Request, writer: asyncio.StreamWriter) -> bytes:
        writer.transport.abort()
        return b""

    await daemon.begin(workspace, skills=[remote(http)])
    http.modes = {"tools/call": cut}
    errors = []
    for step in range(1, 6):
        (answer,) = await daemon.results(step, ("echo", {}), skill="s")
        errors.append(value_of(answer)["error"])
    assert errors == ["skill_disconnected"] * 4 + ["skill_unavailable"]


@pytest.mark.parametrize("status", [404, 400])
async def test_a_call_that_the_server_did_not_look_at_is_made_again_in_a_new_session(
    daemon: FakeDaemon, workspace: Path, http: RawHttp, status: int
) -> None:
    def forgotten(request: Request, writer: asyncio.StreamWriter) -> bytes:
        http.modes = {}
        return response(b"no such session", status)

    await daemon.begin(workspace, skills=[remote(http)])
    for step in range(1, 7):
        http.modes = {"tools/call": forgotten}
        assert await echo(daemon, step) == json.dumps({"step": step})
    assert len(http.asked("initialize")) == 7


async def test_a_call_is_made_twice_at_most(daemon: FakeDaemon, workspace: Path, http: RawHttp) -> None:
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32602, "message": "no such argument"}}
    http.modes = {"tools/call": lambda *_: response(json.dumps(error).encode(), 400)}
    await daemon.begin(workspace, skills=[remote(http)])
    for step in range(1, 7):
        (answer,) = await daemon.results(step, ("echo", {}), skill="s")
        assert value_of(answer) == {"error": "tool_error", "message": "no such argument"}
    assert len(http.asked("tools/call")) == 12


async def test_a_server_cannot_make_the_runner_come_back_all_the_time(
    daemon: FakeDaemon, workspace: Path, http: RawHttp
) -> None:
    async def again(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(stream() + b"retry: 0\nid: 1\ndata:\n\n")
        await writer.drain()
        writer.close()

    http.modes = {"GET": again}
    await daemon.begin(workspace, skills=[remote(http)])
    before = time.monotonic()
    await http.until("GET", 4)
    assert time.monotonic() - before > 1.0


async def test_the_end_of_a_run_does_not_wait_for_a_server_that_does_not_take_its_leave(
    place: Path, workspace: Path, http: RawHttp
) -> None:
    http.hangs = {"DELETE", "tools/call"}
    async with session(place / "r.sock", in_process) as daemon:
        await daemon.begin(workspace, skills=[remote(http)])
        daemon.turn(1, ("echo", {}), skill="s")
        await http.until("tools/call")
        before = time.monotonic()
    assert time.monotonic() - before < 4
    await http.until("DELETE")


async def test_requests_that_flood_end_the_connection(daemon: FakeDaemon, workspace: Path, http: RawHttp) -> None:
    async def asks(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(stream())
        for number in range(1000):
            writer.write(f'data: {{"jsonrpc":"2.0","id":{number},"method":"ping"}}\n\n'.encode())
        await writer.drain()
        await asyncio.sleep(3600)

    await daemon.begin(workspace, skills=[remote(http)])
    http.modes = {"tools/call": asks}
    http.hangs = {""}  # answers of ours are not taken
    (answer,) = await daemon.results(1, ("echo", {}), skill="s")
    assert "more than 64 things at once" in value_of(answer)["message"]


# --- SSE ------------------------------------------------------------------------------------------------------------
def sse(http: RawHttp, endpoint: str = "/message") -> None:
    """Makes the server one of the older transport: answers come on the stream that GET opened."""
    streams: list[asyncio.StreamWriter] = []

    async def opened(request: Request, writer: asyncio.StreamWriter) -> None:
        streams.append(writer)
        writer.write(stream() + f"event: endpoint\ndata: {endpoint}\n\n".encode())
        await writer.drain()
        await asyncio.sleep(3600)

    def posted(request: Request, writer: asyncio.StreamWriter) -> bytes:
        body = http.usual(request).partition(b"\r\n\r\n")[2]
        if body:
            streams[-1].write(b"event: message\ndata: " + body + b"\n\n")
        return response(b"", 202)

    http.modes = {"GET": opened, "POST": posted}


async def test_the_older_transport_works_with_its_headers(daemon: FakeDaemon, workspace: Path, http: RawHttp) -> None:
    sse(http)
    await daemon.begin(workspace, skills=[remote(http, "sse")])
    assert await echo(daemon, 1) == '{"step": 1}'
    assert {each.headers["authorization"] for each in http.requests} == {SECRET}


async def test_messages_do_not_go_to_another_host_than_the_streams(
    daemon: FakeDaemon, workspace: Path, http: RawHttp
) -> None:
    async with serving() as other:
        sse(http, f"http://127.0.0.1:{other.port}/message")
        limits = pb.RunnerLimits(skill_start_timeout_ms=500)
        await daemon.begin(workspace, skills=[remote(http, "sse")], limits=limits)
        assert failed(daemon)
        assert other.requests == []


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (response(b"", 500), "its server answered HTTP 500 Internal Server Error"),
        (response(b"", 308, location="/elsewhere"), "its server answered HTTP 308 Permanent Redirect"),
    ],
    ids=["500", "308"],
)
async def test_a_message_that_is_not_taken_fails_its_call_at_once(
    daemon: FakeDaemon, workspace: Path, http: RawHttp, answer: bytes, says: str
) -> None:
    sse(http)
    await daemon.begin(workspace, skills=[remote(http, "sse")])
    http.modes["tools/call"] = lambda *_: answer
    before = time.monotonic()
    (made,) = await daemon.results(1, ("echo", {}), skill="s")
    assert says in value_of(made)["message"]
    assert time.monotonic() - before < 5
    del http.modes["tools/call"]
    assert await echo(daemon, 2) == '{"step": 2}'


async def test_a_stream_that_ends_is_opened_again_for_the_next_call(
    daemon: FakeDaemon, workspace: Path, http: RawHttp
) -> None:
    sse(http)
    opened = http.modes["GET"]

    async def short(request: Request, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(0.3):
                await opened(request, writer)
        except TimeoutError:
            writer.close()

    http.modes["GET"] = short
    await daemon.begin(workspace, skills=[remote(http, "sse")])
    await states(daemon, "disconnected")
    http.modes["GET"] = opened
    assert await echo(daemon, 1) == '{"step": 1}'


async def test_the_result_of_a_server_is_not_taken_as_an_answer_to_something_else(
    daemon: FakeDaemon, workspace: Path, http: RawHttp
) -> None:
    def other(request: Request, writer: asyncio.StreamWriter) -> bytes:
        return response(result(Request("", "", {}, {"id": 9999}), {"content": []}))

    await daemon.begin(workspace, skills=[remote(http, tool_timeout_ms=500)])
    http.modes = {"tools/call": other}
    (answer,) = await daemon.results(1, ("echo", {}), skill="s")
    assert value_of(answer)["error"] == "timeout"
