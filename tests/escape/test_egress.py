"""The way out, by a client that talks to the egress socket itself. No host of the Internet is needed."""

import json

import pytest

from tests.escape.attacker import Attacker, Outcome, python

pytestmark = pytest.mark.docker

ADDRESSES = [
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "0.0.0.0", "[::1]", "[::]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "169.254.169.254", "2852039166", "0xa9fea9fe", "[fd00:ec2::254]",
    "172.17.0.1", "10.0.0.1", "1.1.1.1", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
]  # fmt: skip
NAMES = ["localhost.localdomain", "ip6-localhost", "host.docker.internal", "sandbox", "example.com", "sub.localhost"]
REQUESTS = {
    "a method that is not CONNECT": (b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "405"),
    "another port": (b"CONNECT localhost:80 HTTP/1.0\r\n\r\n", "port_not_allowed"),
    "a port with a zero in front": (b"CONNECT localhost:0443 HTTP/1.0\r\n\r\n", "request_malformed"),
    "another Host": (b"CONNECT localhost:443 HTTP/1.1\r\nHost: evil\r\n\r\n", "request_malformed"),
    "a body": (b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n", "request_malformed"),
    "a second request behind": (b"CONNECT localhost:443 HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\n\r\n", "request_malformed"),
    "chunks": (
        b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        "request_malformed",
    ),
    "a folded header": (b"CONNECT localhost:443 HTTP/1.1\r\n Host: localhost\r\n\r\n", "request_malformed"),
    "credentials in the target": (b"CONNECT localhost:443@evil:443 HTTP/1.0\r\n\r\n", "request_malformed"),
    "a NUL in the name": (b"CONNECT localhost\0.evil:443 HTTP/1.0\r\n\r\n", "request_malformed"),
    "letters that look alike": ("CONNECT l\u043ecalhost:443 HTTP/1.0\r\n\r\n".encode(), "request_malformed"),
    "an endless header": (b"A" * 20_000, "request_too_large"),
}
ASK = """
import json, socket, sys
def ask(request):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(8)
        client.connect('/gw/egress.sock')
        client.sendall(request)
        answer = b''
        try:
            while more := client.recv(4096): answer += more
        except OSError as error: answer += repr(error).encode()
    return answer.decode('latin-1')
requests = json.loads(sys.argv[1])
print(json.dumps({name: ask(text.encode('latin-1')) for name, text in requests.items()}))
"""


@pytest.fixture(scope="module")
def answers(attacker: Attacker) -> dict[str, str]:
    """What the proxy said to each request of a sandbox that may reach `localhost` and nothing else."""
    requests = {name: text.decode("latin-1") for name, (text, _) in REQUESTS.items()}
    requests |= {host: f"CONNECT {host}:443 HTTP/1.0\r\n\r\n" for host in (*ADDRESSES, *NAMES, "localhost")}
    outcome = attacker.run([python("ask", ASK, json.dumps(requests))], options=("--allow-domain", "localhost"))
    assert outcome.code == 0, outcome.stderr
    recorded(outcome)
    found: dict[str, str] = json.loads(outcome.printed("ask"))
    return found


def recorded(outcome: Outcome) -> None:
    denied = [event for event in outcome.events if event["type"] == "egressDenied"]
    assert len(denied) == len(REQUESTS) + len(ADDRESSES) + len(NAMES) + 1
    assert not [event for event in outcome.events if event["type"] == "proxyAccess"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_in_any_notation_is_refused(answers: dict[str, str], address: str) -> None:
    assert "(host_is_address)" in answers[address]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_not_allowed_is_refused(answers: dict[str, str], name: str) -> None:
    assert "(host_not_allowed)" in answers[name]


def test_an_allowed_name_that_resolves_to_the_host_itself_is_not_dialled(answers: dict[str, str]) -> None:
    assert "(address_not_global)" in answers["localhost"]


@pytest.mark.parametrize("request_name", sorted(REQUESTS))
def test_a_request_that_could_be_read_in_two_ways_is_refused(answers: dict[str, str], request_name: str) -> None:
    assert REQUESTS[request_name][1] in answers[request_name]


def test_there_is_no_other_way_out_and_no_way_to_change_what_names_mean(attacker: Attacker) -> None:
    source = (
        "import socket\n"
        "for family, address in ((2, ('192.0.2.1', 443)), (2, ('172.17.0.1', 22)), (10, ('2001:db8::1', 443))):\n"
        "    with socket.socket(family) as client:\n"
        "        client.settimeout(2); print(client.connect_ex(address))\n"
        "for path in ('/etc/hosts', '/etc/resolv.conf', '/etc/nsswitch.conf'):\n"
        "    try: open(path, 'a'); print('open')\n"
        "    except PermissionError: print('refused')\n"
    )
    lines = attacker.run([python("p", source)]).printed("p").split()
    assert set(lines[:3]) <= {"101", "99"}
    assert lines[3:] == ["refused"] * 3
