"""Remote skills from real sandboxes: a server that others wrote, on this host behind TLS with an authority of its own,
reached through the proxy. Its questions are put to a person, who answers with perstackctl.
"""

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples.stand_in import Place, place
from tests.e2e.daemon import Daemon, one, types
from tests.e2e.skill_servers import (
    PROBE,
    Watched,
    call,
    connect,
    expert,
    results,
    stdio,
    table,
    watched,
)
from tests.e2e.tls_relay import tls
from tests.free_port import free_port
from tests.integration.runner.real_servers import RealServers, installed

pytestmark = [pytest.mark.docker, pytest.mark.timeout(400)]

TOKEN = "token-of-the-remote-skill"
TRANSPORTS = {"http": ("streamableHttp", "mcpHttpSkill", "mcp"), "sse": ("sse", "mcpSseSkill", "sse")}


@dataclass(frozen=True, slots=True)
class Served:
    """Where the servers are, by transport, and the headers of the requests that came."""

    endpoints: Mapping[str, str]
    requests: list[Mapping[str, str]]


@pytest.fixture(scope="module")
def where(home: Path) -> Place:
    return place(home)


@pytest.fixture(scope="module")
def served(where: Place) -> Iterator[Served]:
    servers, endpoints, requests = installed(), {}, list[Mapping[str, str]]()
    with ExitStack() as stack:
        for transport, (mode, _, path) in TRANSPORTS.items():
            port, seen = stack.enter_context(tls(where, stack.enter_context(everything(servers, mode))))
            endpoints[transport] = f"https://{where.name}:{port}/{path}"
            requests = seen if transport == "http" else requests
        yield Served(endpoints, requests)


@contextmanager
def everything(servers: RealServers, mode: str) -> Iterator[int]:
    """The server that has everything, at a port of loopback."""
    port, argv = free_port(), servers.javascript("server-everything", mode)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(argv, env={**os.environ, "PORT": str(port)}, **quiet)  # type: ignore[call-overload]
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def daemon(home: Path, where: Place) -> Iterator[Daemon]:
    settings = {
        "egress.allow_addresses": [f"{where.address}/32"],
        "egress.ca_bundle": str(where.authority),
        "templates.base.min_idle": 2,
        "templates.skills.min_idle": 2,
    }
    daemon = Daemon(home, settings)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def remote(served: Served, transport: str) -> str:
    headers = {"Authorization": "Bearer ${REMOTE_TOKEN}"}
    toml = expert("solo") + table(
        "experts.solo.skills.all", type=TRANSPORTS[transport][1], endpoint=served.endpoints[transport]
    )
    return toml + table("experts.solo.skills.all.headers", **headers)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_remote_server_is_reached_through_the_proxy_with_its_header(
    daemon: Daemon, served: Served, where: Place, transport: str
) -> None:
    daemon.script("solo", {"calls": [call("s", "get-sum", a=2, b=40), call("i", "get-tiny-image")]}, {"text": "done"})
    served.requests.clear()
    directory = daemon.definition(remote(served, transport))
    code, events, stderr = daemon.run(directory, "solo", env={"REMOTE_TOKEN": TOKEN})
    assert code == 0, stderr
    assert "42" in results(events)["s"]
    assert "image/png" in json.dumps(one(events, "resolveToolResults"))
    assert one(events, "skillConnected")["tools"]
    assert {event["host"] for event in events if event["type"] == "proxyAccess"} == {where.name}
    assert "egressDenied" not in types(events)
    assert TOKEN not in json.dumps(events) + daemon.log()
    if transport == "http":
        assert {request["authorization"] for request in served.requests} == {f"Bearer {TOKEN}"}
        assert len(served.requests) >= 4


def test_the_endpoints_host_is_open_to_its_skill_alone_and_a_denial_names_the_line_to_add(
    daemon: Daemon, served: Served, where: Place
) -> None:
    port = served.endpoints["http"].split(":")[2].partition("/")[0]
    toml = remote(served, "http") + stdio("solo", "other", PROBE, "in_other", isolation="own")
    asked = [
        call("a", "in_other", code=connect(f"{where.name}:{port}")),
        call("b", "in_other", code=connect("x.test:443")),
    ]
    daemon.script("solo", {"calls": asked}, {"text": "done"})
    code, events, stderr = daemon.run(daemon.definition(toml), "solo", env={"REMOTE_TOKEN": TOKEN})
    assert code == 0, stderr
    told = results(events)
    assert "403" in told["a"]
    assert f"{where.name}:{port} is open to a skill whose endpoint it is" in told["a"]
    assert "403" in told["b"]
    assert 'allowedDomains = ["x.test"]' in told["b"]
    denied = {(event["host"], event["reason"]) for event in events if event["type"] == "egressDenied"}
    assert denied == {(where.name, "host_not_allowed"), ("x.test", "host_not_allowed")}


def test_an_endpoint_whose_certificate_nobody_vouches_for_fails_with_that_reason(
    daemon: Daemon, tmp_path: Path, where: Place
) -> None:
    other = place(tmp_path)  # the same name, another authority
    with tls(other, free_port()) as (port, _):
        toml = expert("solo") + table(
            "experts.solo.skills.all", type="mcpHttpSkill", endpoint=f"https://{where.name}:{port}/mcp"
        )
        daemon.script("solo", {"text": "never"})
        code, events, _ = daemon.run(daemon.definition(toml), "solo")
    assert code == 1
    assert "certificate" in one(events, "stopRunByError")["message"]


# --- its questions ----------------------------------------------------------------------------------------------------
ELICIT = call("e", "trigger-elicitation-request")
FORM = {
    "name": "Ada",
    "integer": 7,
    "untitledMultipleSelectEnum": ["Piano", "Drums"],
    "titledMultipleSelectEnum": ["fish-2"],
}


@contextmanager
def asking(daemon: Daemon, served: Served, transport: str = "http") -> Iterator[Watched]:
    """A job whose server has asked."""
    daemon.script("solo", {"calls": [ELICIT]}, {"text": "done"})
    with watched(daemon, daemon.definition(remote(served, transport)), env={"REMOTE_TOKEN": TOKEN}) as job:
        job.until("elicitationRequested")
        yield job


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_form_is_answered_with_perstackctl_and_its_choices_of_several_are_checked(
    daemon: Daemon, served: Served, transport: str
) -> None:
    with asking(daemon, served, transport) as job:
        (question,) = job.questions()
        assert (question["kind"], job.state) == ("elicitation", "waiting")
        wrongs: list[dict[str, Any]] = [{"untitledMultipleSelectEnum": ["Tuba"]}, {"titledMultipleSelectEnum": []}]
        for wrong in (*wrongs, {"integer": 101}):
            refused = job.ctl("answer", "--json", json.dumps({**FORM, **wrong}))
            assert refused.returncode == 2, refused
            assert next(iter(wrong)) in refused.stderr
        job.answer("--json", json.dumps(FORM))
        assert job.end()["exitCode"] == 0
    said = results(job.seen)["e"]
    assert "Name: Ada" in said
    assert ('"Piano"' in said, '"Drums"' in said, '"fish-2"' in said) == (True, True, True)


def test_a_declined_form_is_told_to_the_server(daemon: Daemon, served: Served) -> None:
    with asking(daemon, served) as job:
        job.answer("--decline")
        assert job.end()["exitCode"] == 0
    assert "declined" in results(job.seen)["e"]


def test_a_job_is_cancelled_while_a_form_is_open(daemon: Daemon, served: Served) -> None:
    with asking(daemon, served) as job:
        (question,) = job.questions()
        assert job.ctl("cancel").returncode == 0
        last = job.end()
        assert last["exitCode"] == 5
        assert last["timestamp"] - job.of("stopRunByCancel")[0]["timestamp"] < 10_000
        late = job.ctl("answer", question["id"], "--decline")
    assert late.returncode == 1
    assert "closed" in late.stderr
