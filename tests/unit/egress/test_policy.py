from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstack_egress.policy import Host, Policy, parse_host, parse_policy, parse_rule
from perstack_egress.refusal import Refused


def reason_of(policy: Policy, host: str, port: int = 443) -> str:
    try:
        policy.check(parse_host(host), port)
    except Refused as refused:
        return refused.reason
    return ""


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("a-b.c_d.example", "a-b.c_d.example"),
        ("localhost", "localhost"),
        ("1.2.3.4.example", "1.2.3.4.example"),
        ("0x7f.example", "0x7f.example"),
    ],
)
def test_a_name_has_one_canonical_form(text: str, canonical: str) -> None:
    assert parse_host(text) == Host(canonical)


@pytest.mark.parametrize(
    "text",
    [
        "2130706433",  # decimal
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",  # octal
        "017700000001",
        "127.1",
        "127.0.1",
        "0x",
        "127.0.0.0x1",
        "1.2.3.4.5",
        "example.1",
        "010.0.0.1",
        "256.1.1.1",
        "2130706433.",
        "[::ffff:127.0.0.1]",  # mapped
        "[::ffff:7f00:1]",
        "[fe80::1%eth0]",  # scoped
    ],
)
def test_no_notation_of_an_address_passes_as_a_name(text: str) -> None:
    with pytest.raises(Refused) as raised:
        parse_host(text)
    assert raised.value.reason == "host_is_address"


@pytest.mark.parametrize("text", ["127.0.0.1", "169.254.169.254", "8.8.8.8", "[::1]", "[2606:4700::1111]"])
def test_a_plain_address_is_refused_unless_the_operator_names_it(text: str) -> None:
    address = text.strip("[]")
    listed = [(address, 443)]
    assert reason_of(parse_policy(listed, []), text) == "host_is_address"
    assert reason_of(parse_policy(listed, [address]), text) == ""
    assert reason_of(parse_policy([], [address]), text) == "host_not_allowed"


@pytest.mark.parametrize(
    "text", ["xn--bcher-kva.example", "a.xn--p1ai", "XN--P1AI", "www.xn--bcher-kva.example", "xn--a.xn--b"]
)
def test_punycode_is_refused(text: str) -> None:
    with pytest.raises(Refused) as raised:
        parse_host(text)
    assert raised.value.reason == "host_punycode"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        ".example",
        "a..b",
        "a b",
        "bücher.example",
        "a\x00b",
        "-a.example",
        "a-.example",
        "a" * 64,
        "a%2eb",
        "a/b",
        "user@host",
        "[::1",
        "::1]",
        "[example.com]",
        "a." * 127 + "com",
        "[]",
        "example.com:443",
        "*.a",
    ],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(Refused) as raised:
        parse_host(text)
    assert raised.value.reason == "host_invalid"


def test_an_exact_rule_allows_that_host_on_its_port_only() -> None:
    policy = parse_policy([("api.example.com", 0), ("git.example.com", 22)], [])
    assert reason_of(policy, "API.example.com.") == ""
    assert reason_of(policy, "api.example.com", 80) == "port_not_allowed"
    assert reason_of(policy, "git.example.com", 22) == ""
    assert reason_of(policy, "git.example.com", 443) == "port_not_allowed"
    assert reason_of(policy, "v1.api.example.com") == "host_not_allowed"
    assert reason_of(policy, "example.com") == "host_not_allowed"


def test_a_suffix_rule_allows_every_name_below_and_nothing_that_only_looks_so() -> None:
    policy = parse_policy([("*.Example.com", 0)], [])
    assert reason_of(policy, "a.example.com") == ""
    assert reason_of(policy, "a.b.example.com") == ""
    assert reason_of(policy, "example.com") == "host_not_allowed"
    assert reason_of(policy, "badexample.com") == "host_not_allowed"
    assert reason_of(policy, "a.example.com.evil.example") == "host_not_allowed"


def test_a_suffix_never_covers_an_address() -> None:
    with pytest.raises(Refused):
        parse_rule("*.0.0.1", 443)


@pytest.mark.parametrize("host", ["*", "*.", "*a.example", "a.*.example", "**.example", "https://a.example", ""])
def test_a_pattern_that_is_no_rule_is_refused(host: str) -> None:
    with pytest.raises(Refused) as raised:
        parse_policy([(host, 443)], [])
    assert repr(host) in raised.value.detail


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(Refused):
        parse_rule("a.example", port)


def test_the_empty_policy_denies() -> None:
    assert reason_of(Policy(), "localhost") == "host_not_allowed"


def test_a_network_that_is_not_one_is_refused() -> None:
    with pytest.raises(ValueError, match="host bits"):
        parse_policy([], ["10.0.0.1/8"])
    assert parse_policy([], ["10.0.0.0/8"]).networks == (ip_network("10.0.0.0/8"),)


@given(st.text(max_size=300) | st.from_regex(r"[0-9a-fxA-FX.\[\]:%*-]{0,60}", fullmatch=True))
def test_any_text_is_a_canonical_host_or_a_refusal(text: str) -> None:
    try:
        host = parse_host(text)
    except Refused:
        return
    assert parse_host(host.text) == host
    assert host.text.isascii()
    assert host.text == host.text.lower()
