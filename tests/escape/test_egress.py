"""The way out, by a client that talks to the egress socket itself, and past it. No host of the Internet is needed: the
control of the direct dials is a container with a network namespace of its own, in which it has all these addresses.
"""

import json

import pytest

from tests.escape.attacker import Attacker, Outcome, python
from tests.escape.verdicts import attack, control
from tests.escape.weakened import as_root_of_its_own_network, run_inside, started
from tests.integration.docker.rig import Rig

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]  # the first one starts an engine with gVisor

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
def answers(each_attacker: Attacker) -> dict[str, str]:
    """What the proxy said to each request of a sandbox that may reach `localhost` and nothing else."""
    requests = {name: text.decode("latin-1") for name, (text, _) in REQUESTS.items()}
    requests |= {host: f"CONNECT {host}:443 HTTP/1.0\r\n\r\n" for host in (*ADDRESSES, *NAMES, "localhost")}
    outcome = each_attacker.run([python("ask", ASK, json.dumps(requests))], options=("--allow-domain", "localhost"))
    assert outcome.code == 0, outcome.stderr
    recorded(outcome)
    found: dict[str, str] = json.loads(outcome.printed("ask"))
    return found


def recorded(outcome: Outcome) -> None:
    denied = [event for event in outcome.events if event["type"] == "egressDenied"]
    assert len(denied) == len(REQUESTS) + len(ADDRESSES) + len(NAMES) + 1
    assert not [event for event in outcome.events if event["type"] == "proxyAccess"]


@attack("connect_to_address")
@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_in_any_notation_is_refused(answers: dict[str, str], address: str) -> None:
    assert "(host_is_address)" in answers[address]


@attack("other_allowance")
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_not_allowed_is_refused(answers: dict[str, str], name: str) -> None:
    assert "(host_not_allowed)" in answers[name]


@attack("name_of_the_inside")
def test_an_allowed_name_that_resolves_to_the_host_itself_is_not_dialled(answers: dict[str, str]) -> None:
    assert "(address_not_global)" in answers["localhost"]


@attack("smuggling")
@pytest.mark.parametrize("request_name", sorted(REQUESTS))
def test_a_request_that_could_be_read_in_two_ways_is_refused(answers: dict[str, str], request_name: str) -> None:
    assert REQUESTS[request_name][1] in answers[request_name]


@attack("other_allowance")
def test_what_one_sandbox_may_reach_another_may_not(each_attacker: Attacker, answers: dict[str, str]) -> None:
    assert "localhost" in answers, "another sandbox may reach it"
    requests = json.dumps({"localhost": "CONNECT localhost:443 HTTP/1.0\r\n\r\n"})
    outcome = each_attacker.run([python("ask", ASK, requests)])
    assert "(host_not_allowed)" in json.loads(outcome.printed("ask"))["localhost"]


@control("other_allowance")
def test_the_other_one_is_let_past_its_list(answers: dict[str, str]) -> None:
    assert "(host_not_allowed)" not in answers["localhost"]


# --- past the proxy ---------------------------------------------------------------------------------------------------
DIRECT = {
    "direct_address": ["1.1.1.1", "10.0.0.1", "192.0.2.1"],
    "direct_ipv6": ["2606:4700::1111", "fd00:ec2::254", "fe80::1%lo"],
    "gateway": ["172.17.0.1"],
    "metadata_decimal": ["2852039166"],
    "metadata_octal": ["0251.0376.0251.0376", "0xa9fea9fe", "0xa9.254.43518"],
    "metadata_mapped": ["::ffff:169.254.169.254", "::ffff:a9fe:a9fe"],
}
DIAL = """
import json, socket, sys
def reached(address):
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address, 443, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as client:
            client.settimeout(2)
            client.connect(where)
        return True
    except OSError: return False
print(json.dumps({address: reached(address) for address in json.loads(sys.argv[1])}))
"""
BRING_UP = """
import fcntl, ipaddress, socket, struct
def add(address):
    packed = ipaddress.ip_address(address).packed
    if len(packed) == 16:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asking:
            fcntl.ioctl(asking, 0x8916, packed + struct.pack("Ii", 128, socket.if_nametoindex("lo")))
        return
    add.made += 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        name, place = f"lo:{add.made}".encode(), struct.pack("H2x4s8x", socket.AF_INET, packed)
        fcntl.ioctl(asking, 0x8916, struct.pack("16s16s", name, place))
add.made = 0
try:
    with open("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "w") as file: file.write("0")
except FileNotFoundError: pass
for address in ("1.1.1.1", "10.0.0.1", "192.0.2.1", "172.17.0.1", "169.254.169.254",
                "2606:4700::1111", "fd00:ec2::254", "fe80::1"):
    add(address)
listening = socket.socket(socket.AF_INET6)
listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
listening.bind(("::", 443))
listening.listen(100)
"""
EVERYWHERE = json.dumps([address for addresses in DIRECT.values() for address in addresses])


@pytest.fixture(scope="module")
def dialled(each_attacker: Attacker) -> dict[str, bool]:
    found: dict[str, bool] = json.loads(each_attacker.run([python("dial", DIAL, EVERYWHERE)]).printed("dial"))
    return found


@pytest.fixture(scope="module")
def dialled_at_home(rig: Rig) -> dict[str, bool]:
    with started(rig, as_root_of_its_own_network) as container:
        found: dict[str, bool] = json.loads(run_inside(container, BRING_UP + DIAL, EVERYWHERE))
    return found


@pytest.mark.parametrize("name", [pytest.param(name, marks=attack(name)) for name in DIRECT])
def test_nothing_is_reached_past_the_proxy(dialled: dict[str, bool], name: str) -> None:
    assert [address for address in DIRECT[name] if dialled[address]] == []


@pytest.mark.parametrize("name", [pytest.param(name, marks=control(name)) for name in DIRECT])
def test_the_same_dials_arrive_where_the_address_is(dialled_at_home: dict[str, bool], name: str) -> None:
    assert [address for address in DIRECT[name] if not dialled_at_home[address]] == []


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
