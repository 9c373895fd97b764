import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstack_egress.connect import Target, parse_connect
from perstack_egress.refusal import Refused


def refusal(header: bytes) -> str:
    with pytest.raises(Refused) as raised:
        parse_connect(header)
    return raised.value.reason


@pytest.mark.parametrize(
    "header",
    [
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nhost:a.example\r\nUser-Agent: x\r\nProxy-Connection: keep-alive\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.0\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: A.example:443\r\nContent-Length: 0\r\nX:\r\n\r\n",
    ],
)
def test_what_real_clients_send_is_understood(header: bytes) -> None:
    assert parse_connect(header) == Target("a.example", 443)


def test_an_address_keeps_its_brackets() -> None:
    assert parse_connect(b"CONNECT [::1]:8443 HTTP/1.1\r\nHost: [::1]:8443\r\n\r\n") == Target("[::1]", 8443)


@pytest.mark.parametrize("method", [b"GET", b"POST", b"OPTIONS", b"PRI"])
def test_other_methods_are_named(method: bytes) -> None:
    assert refusal(method + b" http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n") == "method_not_allowed"


@pytest.mark.parametrize(
    "header",
    [
        b"\r\n\r\n",
        b"connect a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"CONNECT  a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"CONNECT a.example:443 HTTP/2.0\r\nHost: a.example\r\n\r\n",
        b"CONNECT a.example:443\r\n\r\n",
        b"CONNECT a.example HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"CONNECT a.example:0 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"CONNECT a.example:0443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"CONNECT a.example:65536 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"CONNECT https://a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"CONNECT u@a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"CONNECT ::1:443 HTTP/1.1\r\nHost: ::1\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: b.example\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:444\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost : a.example\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n folded\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nX: \xff\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nX: a\x00b\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\nHost: a.example\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nX: a\nY: b\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nX: a\rY: b\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\nCONNECT b.example:443 HTTP/1.1\r\n\r\n",
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n\x16\x03\x01",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(header: bytes) -> None:
    assert refusal(header) == "request_malformed"


_HEADER = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nUser-Agent: curl/8\r\n\r\n"


@given(st.binary(max_size=400).map(lambda data: data + b"\r\n\r\n") | st.binary(max_size=60))
def test_any_bytes_are_a_target_or_a_refusal(data: bytes) -> None:
    try:
        parse_connect(data)
    except Refused:
        return


@given(st.integers(0, len(_HEADER) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_a_damaged_request_is_a_target_or_a_refusal(at: int, inserted: bytes, dropped: int) -> None:
    try:
        target = parse_connect(_HEADER[:at] + inserted + _HEADER[at + dropped :])
    except Refused:
        return
    assert 1 <= target.port <= 65535
    assert not set(target.host) & set(" \r\n\t/@?#\\")
