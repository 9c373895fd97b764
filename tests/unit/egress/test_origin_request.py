"""Heads of requests for a route: what is understood, what is passed on, what is refused."""

import pytest

from perstack_egress.origin_request import Request, end_to_end, for_origin, is_for_route, parse_request, split
from perstack_egress.policy import Host, Route
from perstack_egress.refusal import Refused

ROUTE = Route("api", Host("api.example.com"), 443, (("authorization", "Bearer t"),))
HOST = "Host: 127.0.0.1:3129\r\n"


def head(line: str, *fields: str, host: str = HOST) -> bytes:
    lines = [line, *host.splitlines(), *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1")


@pytest.mark.parametrize(
    ("target", "route", "path"),
    [
        ("/api", "api", "/"),
        ("/api/", "api", "/"),
        ("/api/v1/x?y=/z", "api", "/v1/x?y=/z"),
        ("/api?q=1", "api", "/?q=1"),
        ("/a-b/../c", "a-b", "/../c"),
        ("/api/%2e%2e/x", "api", "/%2e%2e/x"),
    ],
)
def test_the_first_segment_is_the_route_and_the_rest_the_path(target: str, route: str, path: str) -> None:
    request = parse_request(head(f"GET {target} HTTP/1.1"))
    assert (request.method, request.route, request.target) == ("GET", route, path)


@pytest.mark.parametrize(
    "line",
    [
        "GET api HTTP/1.1", "GET / HTTP/1.1", "GET //api HTTP/1.1", "GET /API HTTP/1.1", "GET /api HTTP/1.0",
        "GET /api HTTP/2", "GET /api  HTTP/1.1", "GET\t/api HTTP/1.1", "get /api HTTP/1.1", "GET /api#x HTTP/1.1",
        "GET /api/a b HTTP/1.1", "GET /api/\\x HTTP/1.1", "GET http://api/ HTTP/1.1", "GET /api/\x7f HTTP/1.1",
        "GET /api HTTP/1.1 ", " GET /api HTTP/1.1", "",
    ],
)  # fmt: skip
def test_a_first_line_that_is_not_plain_is_refused(line: str) -> None:
    with pytest.raises(Refused) as raised:
        parse_request(head(line))
    assert raised.value.reason == "request_malformed"


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "BREW"])
def test_methods_that_are_not_passed_on_are_named(method: str) -> None:
    with pytest.raises(Refused, match="GET") as raised:
        parse_request(head(f"{method} /api HTTP/1.1"))
    assert raised.value.reason == "method_not_allowed"


@pytest.mark.parametrize(
    "fields",
    [
        ("Content-Length: 1", "Content-Length: 1"), ("Content-Length: 1, 1",), ("Content-Length: 01",),
        ("Content-Length: 0x1",), ("Content-Length: -1",), ("Content-Length:",), ("Content-Length: 1" + "0" * 18,),
        ("Transfer-Encoding: chunked", "Content-Length: 1"), ("Transfer-Encoding: identity",),
        ("Transfer-Encoding: chunked, chunked",), ("Transfer-Encoding: \tchunked\t,",), ("X: a\x00b",), ("X: \x80",),
        ("X y: a",), (": a",), (" X: a",), ("X: a\r",), ("X",), ("Connection: x", "Connection: y"), (HOST.strip(),),
    ],
)  # fmt: skip
def test_fields_that_two_readers_could_read_in_two_ways_are_refused(fields: tuple[str, ...]) -> None:
    with pytest.raises(Refused) as raised:
        parse_request(head("POST /api HTTP/1.1", *fields))
    assert raised.value.reason == "request_malformed"


@pytest.mark.parametrize("host", ["", "Host: example.com\r\n", "Host: 127.0.0.1.example.com\r\n", "Host: \r\n"])
def test_a_name_that_somebody_chose_for_this_machine_is_not_served(host: str) -> None:
    with pytest.raises(Refused, match="Host"):
        parse_request(head("GET /api HTTP/1.1", host=host))


def test_what_goes_on_is_written_anew() -> None:
    fields = ("X-Own: 1", "Authorization: mine", "Connection: close, X-Hop", "X-Hop: 1", "Content-Length: 3", "TE: x")
    sent = for_origin(parse_request(head("POST /api/x HTTP/1.1", *fields)), ROUTE)
    assert sent == (
        ("host", "api.example.com"),
        ("x-own", "1"),
        ("content-length", "3"),
        ("authorization", "Bearer t"),
        ("connection", "close"),
    )


def test_a_client_cannot_have_the_added_headers_dropped() -> None:
    request = parse_request(head("GET /api HTTP/1.1", "Connection: authorization, content-length"))
    assert ("authorization", "Bearer t") in for_origin(request, ROUTE)


def test_a_body_keeps_its_length_even_when_connection_names_it() -> None:
    request = parse_request(head("POST /api HTTP/1.1", "Connection: content-length", "Content-Length: 3"))
    assert ("content-length", "3") in for_origin(request, ROUTE)


def test_another_port_stands_in_the_authority() -> None:
    request = Request("GET", "api", "/", ())
    assert for_origin(request, Route("api", Host("h.example"), 8443))[0] == ("host", "h.example:8443")


def test_answers_lose_what_is_for_one_hop() -> None:
    fields = (("connection", "x-a"), ("x-a", "1"), ("transfer-encoding", "chunked"), ("set-cookie", "a=b"))
    assert end_to_end(fields) == (("set-cookie", "a=b"),)


def test_a_proxy_request_is_told_from_one_for_a_route() -> None:
    assert is_for_route(b"GET /api HTTP/1.1\r\n\r\n")
    assert not is_for_route(b"CONNECT api:443 HTTP/1.1\r\n\r\n")
    assert not is_for_route(b"GET http://api/ HTTP/1.1\r\n\r\n")
    assert split(b"GET /a HTTP/1.1\r\n\r\nbody\r\n\r\n") == (b"GET /a HTTP/1.1\r\n\r\n", b"body\r\n\r\n")
