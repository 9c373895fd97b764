"""Remote skills against servers that misbehave, and the way to them: proxy, certificates, headers, redirects."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from perstack.v1 import runner_pb2 as pb

from tests.integration.runner.conftest import as_program, in_process
from tests.integration.runner.fake_daemon import FakeDaemon, session, value_of
from tests.integration.runner.raw_http import SESSION, RawHttp, Request, response, result, serving, stream, text
from tests.integration.runner.test_skills import states

pytestmark = pytest.mark.anyio
SECRET = "Bearer secret-of-this-test"


@pytest.fixture
async def http() -> AsyncIterator[RawHttp]:
    async with serving() as server:
        yield server


def remote(server: RawHttp, transport: str = "http", **fields: Any) -> pb.SkillSpec:
    path = "sse" if transport == "sse" else "mcp"
    endpoint = f"http://127.0.0.1:{server.port}/{path}"
    made = pb.RemoteServer(transport=transport, endpoint=endpoint, headers={"Authorization": SECRET})
    return pb.SkillSpec(name="s", remote=made, **fields)


def failed(daemon: FakeDaemon) -> str:
    last = daemon.skill_states[-1]
    assert last.state == pb.SkillState.STATE_FAILED, last
    assert "secret" not in last.detail
    return last.detail


async def echo(daemon: FakeDaemon, step: int) -> str:
    (answer,) = await daemon.results(step, ("echo", {"step": step}), skill="s")
    return str(answer.content[0].text)


# --- what every request has -------------------------------------------------------------------------------------------
async def test_headers_and_session_go_with_every_request_and_the_session_is_ended(
    place: Path, workspace: Path, http: RawHttp
) -> None:
    async with session(place / "r.sock", in_process) as daemon:
        await daemon.begin(workspace, skills=[remote(http)])
        assert await echo(daemon, 1) == '{"step": 1}'
    assert [each.asks or each.method for each in http.requests if each.method != "GET"] == [
        "initialize",
        "notifications/initialized",
        "tools/list",
        "tools/call",
        "DELETE",
    ]
    assert {each.headers["authorization"] for each in http.requests} == {SECRET}
    assert {each.headers["accept-encoding"] for each in http.requests} == {"identity"}
    assert {each.headers.get("mcp-session-id") for each in http.requests[1:]} == {SESSION}


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_a_redirect_to_another_host_is_not_followed(
    daemon: FakeDaemon, workspace: Path, http: RawHttp, transport: str
) -> None:
    async with serving() as other:
        away = response(b"", 307, location=f"http://localhost:{other.port}/mcp")
        http.modes = {"POST": lambda *_: away, "GET": lambda *_: away}
        await daemon.begin(workspace, skills=[remote(http, transport)])
        assert "not followed" in failed(daemon)
        assert other.requests == []


# --- servers that cannot be used --------------------------------------------------------------------------------------
@pytest.mark.parametrize("transport", ["http", "sse"])
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (response(b"no", 401), "its server answered HTTP 401 Unauthorized"),
        (response(b"<html>", 503, "text/html"), "its server answered HTTP 503 Service Unavailable"),
        (response(b"<html></html>", 200, "text/html"), "text/html"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "it closed the connection or does not speak HTTP"),
    ],
    ids=["401", "503", "html", "ssh"],
)
async def test_an_endpoint_that_is_no_server_is_reported_with_its_cause(
    daemon: FakeDaemon, workspace: Path, http: RawHttp, transport: str, answer: bytes, says: str
) -> None:
    http.modes = {"POST": lambda *_: answer, "GET": lambda *_: answer}
    await daemon.begin(workspace, skills=[remote(http, transport)])
    assert says in failed(daemon)
    assert (await daemon.value(1, "healthCheck"))["status"] == "ok"


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_a_port_that_nobody_listens_on_is_said_so(daemon: FakeDaemon, workspace: Path, transport: str) -> None:
    async with serving() as gone:
        pass
    await daemon.begin(workspace, skills=[remote(gone, transport)])
    assert failed(daemon) == "127.0.0.1: no connection could be made"


@pytest.mark.parametrize("hangs", ["initialize", "notifications/initialized", "tools/list"])
async def test_a_server_that_does_not_answer_the_start_is_given_up_in_time(
    daemon: FakeDaemon, workspace: Path, http: RawHttp, hangs: str
) -> None:
    http.hangs = {hangs}
    await daemon.begin(workspace, skills=[remote(http)], limits=pb.RunnerLimits(skill_start_timeout_ms=600))
    assert failed(daemon) == "not ready after 0.6 s; startTimeout of the skill allows more"


@pytest.mark.parametrize(
    ("endpoint", "headers", "says"),
    [
        ("http://example.com/mcp", {}, "its endpoint has to begin with https://"),
        ("ftp://127.0.0.1/mcp", {}, "its endpoint has to begin with https://"),
        ("https://user:secret@127.0.0.1/mcp", {}, "must not hold a user or password"),
        ("https://[", {}, "its endpoint is no URL"),
        ("https://127.0.0.1/", {"a b": "x"}, "'a b' is no name of a header"),
        ("https://127.0.0.1/", {"A": "secret\r\nB: c"}, "the value of its header A holds characters"),
        ("https://127.0.0.1/", {"A": "sécret"}, "the value of its header A holds characters"),
    ],
)
async def test_an_endpoint_that_cannot_be_meant_is_refused_without_its_secrets(
    daemon: FakeDaemon, workspace: Path, endpoint: str, headers: dict[str, str], says: str
) -> None:
    made = pb.RemoteServer(transport="http", endpoint=endpoint, headers=headers)
    await daemon.begin(workspace, skills=[pb.SkillSpec(name="s", remote=made)])
    assert says in failed(daemon)
    assert "cret" not in failed(daemon)


async def test_an_unknown_transport_is_named(daemon: FakeDaemon, workspace: Path) -> None:
    made = pb.RemoteServer(transport="carrier", endpoint="https://127.0.0.1/")
    await daemon.begin(workspace, skills=[pb.SkillSpec(name="s", remote=made)])
    assert "carrier: no transport of that name" in failed(daemon)


# --- answers ----------------------------------------------------------------------------------------------------------
async def drip(request: Request, writer: asyncio.StreamWriter) -> None:
    """A body without an end."""
    writer.write(stream("application/json") + b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"')
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def large_event(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(stream() + b"data: ")
    for _ in range(100):
        writer.write(b"x" * (1 << 20))
        await writer.drain()


async def endless_notes(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(stream())
    while True:
        writer.write(b'data: {"jsonrpc":"2.0","method":"notifications/resources/list_changed"}\n\n' * 100)
        await writer.drain()
        await asyncio.sleep(0.001)


def compressed(request: Request, writer: asyncio.StreamWriter) -> bytes:
    return response(gzip.compress(text(request, "x" * (50 << 20))), content_encoding="gzip")


@pytest.mark.parametrize(
    ("mode", "error", "says"),
    [
        (lambda request, _: response(text(request, "x" * (100 << 20))), "tool_error", "the answer is over 16 MiB"),
        (drip, "tool_error", "the answer is over 16 MiB"),
        (large_event, "skill_disconnected", "its answer is over 16 MiB"),
        (endless_notes, "timeout", "no answer in 2 s"),
        (compressed, "skill_disconnected", "its server compresses its answers"),
        (lambda *_: response(b"{", 200), "tool_error", "Failed to parse JSON response"),
        (lambda *_: response(b"\xff\xfe", 200), "tool_error", "Failed to parse JSON response"),
        (lambda *_: response(b"{}", 500), "tool_error", "its server answered HTTP 500 Internal Server Error"),
        (lambda *_: response(b"", 202), "tool_error", "202"),
    ],
    ids=["100 MiB", "endless", "large event", "endless news", "gzip", "cut", "no utf-8", "500", "202"],
)
async def test_an_answer_that_cannot_be_used_is_one_error_and_the_next_call_works(
    place: Path, workspace: Path, http: RawHttp, mode: Any, error: str, says: str
) -> None:
    async with session(place / "r.sock", as_program) as daemon:
        milliseconds = 2_000 if error == "timeout" else 30_000
        await daemon.begin(workspace, skills=[remote(http, tool_timeout_ms=milliseconds)])
        http.modes = {"tools/call": mode}
        (answer,) = await daemon.results(1, ("echo", {}), skill="s")
        assert value_of(answer)["error"] == error
        assert says in value_of(answer)["message"]
        http.modes = {}
        assert await echo(daemon, 2) == '{"step": 2}'
        pid = (await daemon.value(3, "healthCheck"))["pid"]
        peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
        assert int(peak.split()[1]) < 220 << 10, "KiB at most"


async def test_a_call_without_an_answer_ends_in_its_time_and_is_cancelled_at_the_server(
    daemon: FakeDaemon, workspace: Path, http: RawHttp
) -> None:
    http.hangs = {"tools/call"}
    await daemon.begin(workspace, skills=[remote(http, tool_timeout_ms=300)])
    (answer,) = await daemon.results(1, ("echo", {}), skill="s")
    assert value_of(answer)["error"] == "timeout"
    (cancelled,) = await http.until("notifications/cancelled")
    (call,) = http.asked("tools/call")
    assert cancelled.message["params"]["requestId"] == call.message["id"]


async def test_answers_that_nobody_waits_for_do_not_pile_up(daemon: FakeDaemon, workspace: Path, http: RawHttp) -> None:
    http.hangs = {"tools/call"}
    await daemon.begin(workspace, skills=[remote(http, tool_timeout_ms=200)])
    await daemon.results(1, *[("echo", {})] * 20, skill="s")
    http.hangs = set()
    assert await echo(daemon, 2) == '{"step": 2}'
    assert len(http.asked("initialize")) == 2
    assert len(http.asked("DELETE")) == 1


async def test_a_cancelled_call_is_cancelled_at_the_server(daemon: FakeDaemon, workspace: Path, http: RawHttp) -> None:
    http.hangs = {"tools/call"}
    await daemon.begin(workspace, skills=[remote(http)])
    daemon.turn(1, ("echo", {}), skill="s")
    await http.until("tools/call")
    daemon.order(cancel_calls=pb.CancelCalls())
    (answer,) = await daemon.take_results(1)
    assert value_of(answer)["error"] == "cancelled"
    await http.until("notifications/cancelled")


# --- connections ------------------------------------------------------------------------------------------------------
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


# --- SSE --------------------------------------------------------------------------------------------------------------
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
