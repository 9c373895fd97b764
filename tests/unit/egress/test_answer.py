import pytest

from perstack_egress import answer
from perstack_egress.refusal import STATUS, Refused


def test_a_denial_names_the_host_and_the_line_to_add_in_status_line_and_body() -> None:
    refused = Refused("host_not_allowed", "api.example.com is not in allowedDomains of this sandbox")
    head, body = answer.render(refused, "api.example.com", 443).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 api.example.com is not in allowedDomains of this sandbox\r\n")
    assert b'allowedDomains = ["api.example.com"]' in body
    assert b"perstackctl run --allow-domain api.example.com" in body
    assert f"Content-Length: {len(body)}".encode() in head


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
