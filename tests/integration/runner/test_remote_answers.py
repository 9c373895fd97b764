"""Remote skills whose servers answer too much, too late, damaged, or not at all."""

import asyncio
import gzip
from pathlib import Path
from typing import Any

import pytest
from perstack.v1 import runner_pb2 as pb

from tests.integration.runner.conftest import as_program
from tests.integration.runner.fake_daemon import FakeDaemon, session, value_of
from tests.integration.runner.raw_http import RawHttp, Request, response, stream, text
from tests.integration.runner.remote_skill import echo, remote

pytestmark = pytest.mark.anyio


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
    await daemon.begin(workspace, skills=[remote(http, tool_timeout_ms=1500)])
    (answer,) = await daemon.results(1, ("echo", {}), skill="s")
    assert value_of(answer)["error"] == "timeout"
    (cancelled,) = await http.until("notifications/cancelled")
    (call,) = http.asked("tools/call")
    assert cancelled.message["params"]["requestId"] == call.message["id"]


async def test_answers_that_nobody_waits_for_do_not_pile_up(daemon: FakeDaemon, workspace: Path, http: RawHttp) -> None:
    http.hangs = {"tools/call"}
    await daemon.begin(workspace, skills=[remote(http, tool_timeout_ms=1000)])
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
