from contextlib import nullcontext
from dataclasses import replace

import pytest

from perstack_egress import answer
from perstack_egress.policy import parse_ceiling, parse_host, parse_policy
from perstack_egress.refusal import STATUS, Refused


def test_a_denial_names_the_host_and_the_line_to_add_in_status_line_and_body() -> None:
    refused = Refused("host_not_allowed", "api.example.com is not in allowedDomains of this sandbox")
    head, body = answer.render(refused, "api.example.com", 443).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 api.example.com is not in allowedDomains of this sandbox\r\n")
    assert b'allowedDomains = ["api.example.com"]' in body
    assert b"perstackctl run --allow-domain api.example.com" in body
    assert f"Content-Length: {len(body)}".encode() in head


def test_a_denial_by_the_operators_policy_names_that_and_no_line_of_a_definition() -> None:
    policy = parse_policy([("a.in.example", 443)], ())
    restricted = replace(policy, ceiling=parse_ceiling(["*.in.example:443", "[::1]:80", "no host:443"]))
    with pytest.raises(Refused) as refused:
        restricted.check(parse_host("api.out.example"), 443)
    assert refused.value.reason == "egress_not_permitted"
    said = answer.render(refused.value, "api.out.example", 443).decode()
    assert said.startswith("HTTP/1.1 403 api.out.example is outside of egress.allow_hosts, the operator's policy\r\n")
    assert 'egress.allow_hosts = [..., "api.out.example"]' in said
    assert "allowedDomains" not in said
    assert "--allow-domain" not in said


@pytest.mark.parametrize(
    ("ceiling", "host", "port", "reason"),
    [
        (None, "b.in.example", 443, "host_not_allowed"),
        (["*.in.example:443"], "a.in.example", 443, ""),
        (["*.in.example:443"], "b.in.example", 443, "host_not_allowed"),
        (["*.in.example:443"], "a.in.example", 8443, "egress_not_permitted"),
        (["*.in.example:443", "a.in.example:8443"], "a.in.example", 8443, "port_not_allowed"),
        ([], "b.in.example", 443, "egress_not_permitted"),
    ],
)
def test_a_denial_is_the_operators_where_no_definition_could_mend_it(
    ceiling: list[str] | None, host: str, port: int, reason: str
) -> None:
    policy = parse_policy([("a.in.example", 443)], ())
    restricted = replace(policy, ceiling=None if ceiling is None else parse_ceiling(ceiling))
    with nullcontext() if not reason else pytest.raises(Refused, match=f"^{reason}: "):
        restricted.check(parse_host(host), port)


def test_a_line_of_allowed_domains_is_no_remedy_for_another_port() -> None:
    assert 'allowedDomains = ["a.example"]' in answer.remedy("host_not_allowed", "a.example", 443)
    told = answer.remedy("host_not_allowed", "a.example", 8443)
    assert told == "Names of allowedDomains are for port 443; a.example:8443 is open to a skill whose endpoint it is.\n"


def test_a_wrong_method_is_told_which_is_right() -> None:
    head = answer.render(Refused("method_not_allowed", "GET is not possible here"))
    assert head.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert b"\r\nAllow: CONNECT\r\n" in head


@pytest.mark.parametrize("reason", sorted(STATUS))
def test_every_reason_has_a_well_formed_answer(reason: str) -> None:
    head, _, body = answer.render(Refused(reason, "why"), "a.example", 443).partition(b"\r\n\r\n")
    assert reason.encode() in head
    assert body.endswith(b"\n")
    assert all(b"\n" not in line for line in head.split(b"\r\n"))


def test_a_tls_client_gets_an_alert_that_its_library_can_name() -> None:
    assert answer.alert("sni_mismatch") == b"\x15\x03\x03\x00\x02\x02\x70"
    assert answer.alert("not_tls") == b""
