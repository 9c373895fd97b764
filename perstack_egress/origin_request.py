"""PURE. The head of one request for an origin route, read strictly, and what of it is passed on (RFC 9112, RFC 9110).

Everything that two readers could read in two ways is refused before a parser sees it; what goes on is written anew from
what was understood, never copied.
"""

import re
from dataclasses import dataclass
from typing import Final

from perstack_egress.connect import END
from perstack_egress.policy import Route
from perstack_egress.refusal import Refused

Headers = tuple[tuple[str, str], ...]

_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_LINE: Final = re.compile(r"([A-Z]{1,20}) /([a-z0-9-]{1,64})([/?][\x21-\x22\x24-\x5b\x5d-\x7e]{0,7000})? HTTP/1\.1")
_FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\t]*?)[ \t]*")
_LENGTH: Final = re.compile(r"0|[1-9][0-9]{0,17}")
# Who asks for another host than this machine was led here by a name that somebody else chose.
_HOST: Final = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?", re.IGNORECASE)
_HOP_BY_HOP: Final = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te"),
        *("trailer", "transfer-encoding", "upgrade", "http2-settings", "alt-svc"),
    }
)
_ONCE: Final = ("host", "content-length", "transfer-encoding", "connection", "expect")


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks of a route; `target` is the path at the origin. Names of `fields` are lower-case."""

    method: str
    route: str
    target: str
    fields: Headers


def is_for_route(header: bytes) -> bool:
    """Whether the first line asks for a path: a proxy request never does."""
    return header.split(b"\r\n", 1)[0].partition(b" ")[2].startswith(b"/")


def split(header: bytes) -> tuple[bytes, bytes]:
    """The head with its empty line, and what came behind it. `header` has an empty line."""
    head, _, rest = header.partition(END)
    return head + END, rest


def parse_request(head: bytes) -> Request:
    """The request of a head that ends with its only empty line.

    Raises:
        Refused: request_malformed, method_not_allowed, and nothing else.
    """
    try:
        first, *rest = head.removesuffix(END).decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        raise _malformed("the header is not ASCII") from None
    line = _LINE.fullmatch(first)
    if line is None:
        raise _malformed("the first line is not `METHOD /route/path HTTP/1.1`")
    if line[1] not in _METHODS:
        raise Refused("method_not_allowed", f"{line[1]} is not passed on; what is: {', '.join(_METHODS)}")
    fields = tuple(map(_field, rest))
    _check_framing(fields)
    path = line[3] or ""
    return Request(line[1], line[2], path if path.startswith("/") else f"/{path}", fields)


def for_origin(request: Request, route: Route) -> Headers:
    """The headers that the origin gets: the client's without those of one hop and those that the route sets."""
    set_here = {name for name, _ in route.headers} | {"host", "expect"}
    kept = (field for field in end_to_end(request.fields) if field[0] not in set_here and field[0] != "content-length")
    authority = route.host.text if route.port == 443 else f"{route.host.text}:{route.port}"
    return (("host", authority), *kept, *_framing(request.fields), *route.headers, ("connection", "close"))


def end_to_end(fields: Headers) -> Headers:
    """Without the fields that are for one hop, named ones included."""
    named = {token.strip().lower() for name, value in fields if name == "connection" for token in value.split(",")}
    return tuple(field for field in fields if field[0] not in _HOP_BY_HOP | named)


def _framing(fields: Headers) -> Headers:
    lengths = tuple(field for field in fields if field[0] == "content-length")
    chunked = any(name == "transfer-encoding" for name, _ in fields)
    return (("transfer-encoding", "chunked"),) if chunked else lengths


def _field(line: str) -> tuple[str, str]:
    parts = _FIELD.fullmatch(line)
    if parts is None:
        raise _malformed("a header field is malformed")
    return parts[1].lower(), parts[2]


def _check_framing(fields: Headers) -> None:
    of = {name: [value for found, value in fields if found == name] for name in _ONCE}
    if any(len(values) > 1 for values in of.values()):
        raise _malformed("a header field that may stand once comes twice")
    if not of["host"] or not _HOST.fullmatch(of["host"][0]):
        raise _malformed("Host must be 127.0.0.1 or localhost")
    lengths, codings = of["content-length"], of["transfer-encoding"]
    if lengths and codings:
        raise _malformed("Content-Length and Transfer-Encoding exclude each other")
    if lengths and not _LENGTH.fullmatch(lengths[0]):
        raise _malformed("Content-Length is not a number")
    if codings and codings[0].lower() != "chunked":
        raise _malformed("the only Transfer-Encoding is chunked")


def _malformed(detail: str) -> Refused:
    return Refused("request_malformed", detail)
