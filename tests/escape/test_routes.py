"""Origin routes from inside: the credential is used and never seen; and the controls of the refusals of test_egress.

One daemon whose operator allows loopback addresses and gives one expert a route to an origin of the test's.
"""

import http.server
import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon
from tests.escape.attacker import Attacker, Outcome, python
from tests.integration.egress.client import make_certificate

pytestmark = pytest.mark.docker
TOKEN = "tok-0f-the-r0ute-9d1c"
ASK = """
import json, socket, sys
def ask(port, text):
    with socket.create_connection(('127.0.0.1', port), timeout=8) as client:
        client.sendall(text.encode('latin-1'))
        answer = b''
        try:
            while more := client.recv(65536): answer += more
        except OSError as error: answer += repr(error).encode()
    return answer.decode('latin-1')
requests = json.loads(sys.argv[1])
print(json.dumps({name: ask(port, text) for name, (port, text) in requests.items()}))
"""
SEARCH = """
import os, sys
needle = sys.argv[1][::-1].encode()  # backwards in our own argv
found = []
def look(path):
    try:
        with open(path, 'rb') as file:
            if needle in file.read(1 << 22): found.append(path)
    except OSError: pass
for pid in filter(str.isdigit, os.listdir('/proc')):
    for name in ('environ', 'cmdline'): look(f'/proc/{pid}/{name}')
for top in ('/run', '/tmp', '/home', '/gw', '/etc', '/mnt'):
    for directory, _, names in os.walk(top):
        for name in names:
            if os.path.isfile(os.path.join(directory, name)): look(os.path.join(directory, name))
print(found)
"""


def get(path: str, *fields: str) -> str:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1:3129", *fields, "", ""])


class Origin(http.server.BaseHTTPRequestHandler):
    """Answers with what it was sent, the credential left out."""

    seen: list[tuple[str, str]] = []  # noqa: RUF012 - of the one server of this module

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization", "")))
        body = b"origin"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def attacker() -> Iterator[Attacker]:
    with tempfile.TemporaryDirectory(prefix="pr-", dir="/tmp") as directory:
        home = Path(directory)
        home.chmod(0o755)
        certificate = make_certificate(home)
        bundle = home / "ca.pem"  # without the key
        bundle.write_text("-----BEGIN CERT" + certificate.path.read_text().split("-----BEGIN CERT")[1])
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
        server.socket = certificate.server.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        route = {
            "origin": f"https://localhost:{server.server_address[1]}",
            "experts": ["attacker-1"],
            "headers": {"Authorization": "Bearer ${ROUTE_TOKEN}"},
        }
        settings = {"egress.allow_addresses": ["127.0.0.0/8", "::1/128"], "egress.ca_bundle": str(bundle)}
        daemon = Daemon(home, {**settings, "egress.routes.api": route}, secrets={"ROUTE_TOKEN": TOKEN})
        daemon.start()
        try:
            yield Attacker(daemon, home)
        finally:
            daemon.stop()
            server.shutdown()
            server.server_close()


@pytest.fixture(scope="module")
def granted(attacker: Attacker) -> Outcome:
    """The run of the expert that has the route; it must be the first of this module's."""
    requests = {
        "route": (3129, get("/api/items?x=1", "Authorization: Bearer mine")),
        "other port": (3128, get("/api/same")),
        "unknown": (3129, get("/other/")),
        "two lengths": (3129, get("/api/", "Content-Length: 1", "Content-Length: 2")),
        "rebound": (3129, get("/api/").replace("127.0.0.1:3129", "evil.example")),
        "localhost": (3128, "CONNECT localhost:443 HTTP/1.0\r\n\r\n"),
        "address": (3128, "CONNECT 127.0.0.1:443 HTTP/1.0\r\n\r\n"),
    }
    calls = [python("ask", ASK, json.dumps(requests)), python("search", SEARCH, TOKEN[::-1])]
    outcome = attacker.run(calls, options=("--allow-domain", "localhost"))
    assert outcome.code == 0, outcome.stderr
    return outcome


def answers(outcome: Outcome) -> dict[str, str]:
    found: dict[str, str] = json.loads(outcome.printed("ask"))
    return found


def test_a_route_reaches_its_origin_with_the_credential(granted: Outcome) -> None:
    assert answers(granted)["route"].endswith("\r\n\r\norigin")
    assert answers(granted)["other port"].endswith("origin")
    assert Origin.seen[:2] == [("/items?x=1", f"Bearer {TOKEN}"), ("/same", f"Bearer {TOKEN}")]
    assert [event for event in granted.events if event["type"] == "proxyAccess" and event["host"] == "localhost"]


def test_the_credential_is_nowhere_inside_and_in_no_event(attacker: Attacker, granted: Outcome) -> None:
    assert granted.printed("search").strip() == "[]"
    assert TOKEN not in json.dumps(granted.events)
    assert TOKEN not in attacker.daemon.log()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("unknown", "route_unknown"), ("two lengths", "request_malformed"), ("rebound", "request_malformed")],
)
def test_what_is_no_request_for_the_route_is_refused(granted: Outcome, name: str, reason: str) -> None:
    assert f"({reason})" in answers(granted)[name]
    assert any(event["type"] == "egressDenied" and event["reason"] == reason for event in granted.events)


def test_another_expert_has_no_route(attacker: Attacker, granted: Outcome) -> None:
    before = len(Origin.seen)
    outcome = attacker.run([python("ask", ASK, json.dumps({"route": (3129, get("/api/"))}))])
    assert "(route_unknown)" in answers(outcome)["route"]
    assert len(Origin.seen) == before


def test_control_what_test_egress_sees_refused_is_dialled_where_the_operator_allows_it(granted: Outcome) -> None:
    """Nothing listens on 443 there, or something that answers: either way it was dialled."""
    answer = answers(granted)["localhost"]
    assert "200 Connection established" in answer or "(dial_failed)" in answer
    assert "(host_not_allowed)" in answers(granted)["address"]
