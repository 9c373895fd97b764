"""perstack-egress: what a sandbox sends it, and what comes over its control socket."""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_network

import h11
import hypothesis
import pytest
from google.protobuf.message import DecodeError
from hypothesis import assume
from hypothesis import strategies as st
from perstack.v1 import egress_pb2 as pb

from perstack_egress import messages, name_files
from perstack_egress.addresses import may_dial, why_not
from perstack_egress.clienthello import ClientHello, parse_client_hello
from perstack_egress.connect import END, parse_connect
from perstack_egress.control import Control
from perstack_egress.explain import explain
from perstack_egress.limits import Limits
from perstack_egress.origin_request import for_origin, is_for_route, parse_request, split
from perstack_egress.policy import Policy, Route, parse_host, parse_policy
from perstack_egress.refusal import STATUS, Refused
from perstackd.adapters.egress.channel import Channel, ChannelLost, OrderRefused
from tests.fuzz.bounds import fuzz
from tests.fuzz.messages import filled, nearly


def expect(refused: Refused) -> None:
    assert refused.reason in STATUS
    assert refused.detail


# --- ClientHello ----------------------------------------------------------------------------------------------------
def client_hello(name: str) -> bytes:
    """As OpenSSL writes it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


HELLO = client_hello("api.example.com")


def understood(data: bytes) -> ClientHello | None:
    """Nothing but Refused may come of any bytes, with a reason that is known."""
    try:
        return parse_client_hello(data)
    except Refused as refused:
        expect(refused)
        return None


@fuzz(st.binary(max_size=20_000))
def test_any_bytes_are_a_client_hello_or_refused(data: bytes) -> None:
    understood(data)
    understood(b"\x16\x03\x01" + data)


@fuzz(st.lists(st.tuples(st.integers(0, len(HELLO) - 1), st.integers(0, 255)), max_size=6), st.integers(0, 600))
def test_a_client_hello_with_bytes_changed_names_a_host_or_none(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(HELLO)
    for at, value in changes:
        data[at] = value
    hello = understood(bytes(data[: length or None]))
    if hello is not None and hello.server_name is not None:
        assert hello.server_name == hello.server_name.lower()
        assert hello.server_name.isascii()


@fuzz(st.lists(st.integers(1, 400), min_size=1, max_size=20), st.integers(0, 700))
def test_a_client_hello_cut_into_records_says_the_same(sizes: list[int], cut: int) -> None:
    body, records, at = HELLO[5:], b"", 0
    for size in [*sizes, len(body)]:
        piece = body[at : at + size]
        at += len(piece)
        if piece:
            records += b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece
    assert parse_client_hello(records) == ClientHello("api.example.com")
    if cut < len(records):
        assert parse_client_hello(records[:cut]) is None


# --- CONNECT and routes ---------------------------------------------------------------------------------------------
LINES = [
    "Host: 127.0.0.1:3129", "Host: localhost", "Content-Length: 4", "Content-Length: 0", "Transfer-Encoding: chunked",
    "Connection: close, x-a", "Expect: 100-continue", "X-A: 1", "Proxy-Authorization: x", "TE: trailers",
    "Upgrade: h2c",
]  # fmt: skip
SMUGGLED = ["\r\n", "\n", "\r", " ", "\t", ":", ",", "\0", "\x0b", "\x85", "chunked", "Content-Length: 7\r\n",
            "Host: b\r\n", "Transfer-Encoding: identity\r\n", "4", "0x", "+", "_", "\r\n\r\n", "#", "\\", "@",
            "[", "é"]  # fmt: skip


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A head that is right, with at most three things in it that are not."""
    if draw(st.booleans()):
        authority = draw(st.sampled_from(["a.example:443", "a.example:8443", "[::1]:443", "127.0.0.1:443"]))
        lines = [f"CONNECT {authority} HTTP/1.{draw(st.integers(0, 1))}", f"Host: {authority}"]
        lines += draw(st.lists(st.sampled_from(LINES[7:]), max_size=2))
    else:
        path = draw(st.sampled_from(["/api", "/api/x?y=1", "/api/%2e%2e/x", "/b-c/"]))
        lines = [f"{draw(st.sampled_from(['GET', 'POST', 'DELETE']))} {path} HTTP/1.1"]
        lines += draw(st.lists(st.sampled_from(LINES), max_size=4, unique_by=lambda line: line.split(":")[0]))
        lines += [] if any(line.startswith("Host") for line in lines) else [LINES[0]]
    text = "\r\n".join([*lines, "", ""])
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        at = draw(st.integers(0, len(text)))
        gone = draw(st.integers(0, 2))
        text = text[:at] + draw(st.sampled_from(["", *SMUGGLED])) + text[at + gone :]
    return text.encode("utf-8")


@fuzz(heads() | st.binary(max_size=200).map(lambda data: data + END))
def test_a_connect_is_understood_as_another_parser_understands_it_or_refused(head: bytes) -> None:
    try:
        target = parse_connect(head)
    except Refused as refused:
        expect(refused)
        return
    event = other_reader(head)
    hypothesis.event("taken")
    assert event.method == b"CONNECT"
    assert event.target == f"{target.host}:{target.port}".encode()


@fuzz(heads() | st.binary(max_size=200).map(lambda data: data + END))
def test_a_request_for_a_route_is_framed_as_another_parser_frames_it_or_refused(head: bytes) -> None:
    assume(END in head)
    head, _ = split(head)
    is_for_route(head)
    try:
        request = parse_request(head)
    except Refused as refused:
        expect(refused)
        return
    event = other_reader(head)
    hypothesis.event("taken")
    path = request.target if request.target.startswith("/") else f"/{request.target}"
    assert event.method == request.method.encode()
    assert event.target.decode() in {f"/{request.route}{path}", f"/{request.route}{path[1:]}"}
    sent = dict(for_origin(request, Route("api", parse_host("a.example"), 443, (("authorization", "t"),))))
    framing = {name.decode(): value.decode() for name, value in event.headers}
    assert sent.get("content-length") == framing.get("content-length")
    assert ("transfer-encoding" in sent) == ("transfer-encoding" in framing)
    assert (sent["host"], sent["authorization"], sent["connection"]) == ("a.example", "t", "close")


def other_reader(head: bytes) -> h11.Request:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(head)
    event = connection.next_event()
    assert isinstance(event, h11.Request)
    return event


# --- names and addresses --------------------------------------------------------------------------------------------
DIGITS = st.text("0123456789abcdefx.", min_size=1, max_size=20)


@fuzz(DIGITS | st.text(max_size=300) | st.integers(0, 2**33).map(str) | st.integers(0, 2**33).map(hex))
def test_nothing_that_a_resolver_reads_as_an_address_passes_for_a_name(text: str) -> None:
    try:
        host = parse_host(text)
    except Refused as refused:
        expect(refused)
        return
    assert parse_host(host.text) == host, "the canonical form is its own"
    if host.address is None:
        for read in (socket.inet_aton, partial(socket.inet_pton, socket.AF_INET6)):
            with pytest.raises(OSError, match="illegal IP address"):
                read(host.text)


@fuzz(st.ip_addresses())
def test_what_is_not_global_is_never_dialled_without_the_operators_word(address: IPv4Address | IPv6Address) -> None:
    dialled = may_dial(address, ())
    assert dialled == (why_not(address, ()) == "")
    if dialled:
        assert address.is_global
        kinds = (address.is_multicast, address.is_loopback, address.is_link_local, address.is_private)
        assert not any(kinds)
        if isinstance(address, IPv6Address):
            assert not any((address.ipv4_mapped, address.sixtofour, address.teredo))


@fuzz(st.ip_addresses(v=4), st.sampled_from(["64:ff9b::", "::ffff:", "2002:"]))
def test_what_an_address_carries_inside_decides(inner: IPv4Address, prefix: str) -> None:
    packed = f"{int(inner) >> 16:x}:{int(inner) & 0xFFFF:x}"
    text = f"2002:{packed}::" if prefix == "2002:" else f"{prefix}{packed}"
    allowed = (ip_network("::/0"),)
    if not may_dial(inner, ()):
        assert not may_dial(IPv6Address(text), allowed)
        assert "stands for" in why_not(IPv6Address(text), allowed)


@fuzz(filled(pb.EgressPolicy), st.text(max_size=80), st.integers(0, 70000))
def test_a_policy_is_taken_or_refused_and_one_that_is_taken_answers_every_question(
    message: pb.EgressPolicy, host: str, port: int
) -> None:
    try:
        policy = messages.policy(message)
    except messages.RuleInvalid:
        policy = Policy()
    found = asyncio.run(explain(policy, host, port, Nowhere(), 1))
    assert found.allowed or found.reason in STATUS


class Nowhere:
    async def lookup(self, name: str) -> Sequence[IPv4Address]:
        raise OSError(name)


@fuzz(st.lists(st.tuples(st.text(max_size=40), st.integers(-1, 70000)), max_size=5))
def test_rules_are_parsed_or_refused(rules: list[tuple[str, int]]) -> None:
    with suppress(Refused):
        assert len(parse_policy(rules, ()).rules) == len(rules)


# --- the control socket, from both ends -----------------------------------------------------------------------------
@fuzz(st.lists(nearly(pb.ToEgress).filter(len), max_size=6), part=0.5)
def test_the_program_answers_any_orders_or_ends(packets: list[bytes]) -> None:
    asyncio.run(carried_out(packets, name_files.identities()))


async def carried_out(packets: list[bytes], files: name_files.Identities) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        with ours:
            for packet in packets:
                ours.send(packet)
        async with asyncio.timeout(5):
            await Control(theirs, Limits(dial_timeout=0.1), files).run()


@fuzz(st.lists(nearly(pb.FromEgress).filter(len), max_size=6), part=0.5)
def test_the_daemon_believes_no_report_and_outlives_every_one(packets: list[bytes]) -> None:
    asyncio.run(heard(packets))


async def heard(packets: list[bytes]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)
    accesses: list[pb.Access] = []
    with ours:
        with theirs:
            for packet in packets:
                theirs.send(packet)
            channel = Channel(ours)
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                waiting = group.create_task(order(channel))
                group.create_task(channel.read(accesses.append))
                await asyncio.sleep(0)
                theirs.shutdown(socket.SHUT_RDWR)
        assert waiting.done()


async def order(channel: Channel) -> None:
    with suppress(ChannelLost, OrderRefused):
        await channel.order(pb.ToEgress(close=pb.CloseListener()))


@fuzz(st.binary(max_size=2000))
def test_bytes_are_a_message_or_not_one(data: bytes) -> None:
    for cls in (pb.ToEgress, pb.FromEgress):
        with suppress(DecodeError):
            cls.FromString(data)
