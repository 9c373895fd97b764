"""Remote skills: what every request has, and endpoints that cannot be used."""

from pathlib import Path

import pytest
from perstack.v1 import runner_pb2 as pb

from tests.integration.runner.conftest import in_process
from tests.integration.runner.fake_daemon import FakeDaemon, session
from tests.integration.runner.raw_http import SESSION, RawHttp, response, serving
from tests.integration.runner.remote_skill import SECRET, echo, failed, remote

pytestmark = pytest.mark.anyio


# --- what every request has -----------------------------------------------------------------------------------------
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


# --- servers that cannot be used ------------------------------------------------------------------------------------
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
