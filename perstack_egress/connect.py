"""PURE. Reads the header of one CONNECT request, strictly (RFC 9112, RFC 9110 section 9.3.6).

Nothing of the request is ever forwarded, so what is read is only the target; everything that two readers could read
in two ways is refused.
"""

import re
from dataclasses import dataclass
from typing import Final

from perstack_egress.refusal import Refused

MAX_HEADER: Final = 8192
END: Final = b"\r\n\r\n"

# HTTP/1.0 is what Python's http.client sent for a tunnel until 3.12: pip and requests depend on it.
_REQUEST_LINE: Final = re.compile(r"([A-Z]{1,20}) ([\x21-\x7e]{1,2000}) HTTP/1\.([01])")
_TARGET: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[^:\[\]/@?#\\]{1,255}):([1-9][0-9]{0,4})")
_FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x20-\x7e\t]*?)[ \t]*")


@dataclass(frozen=True, slots=True)
class Target:
    """The authority as the client wrote it; the host is not yet canonical. `[...]` stays around IPv6."""

    host: str
    port: int


def parse_connect(header: bytes) -> Target:
    """The target of a header that ends with an empty line.

    Raises:
        Refused: request_malformed, method_not_allowed, and nothing else.
    """
    lines = _lines(header)
    line = _REQUEST_LINE.fullmatch(lines[0])
    if line is None:
        raise _malformed("the first line is not `CONNECT host:port HTTP/1.1`")
    if line[1] != "CONNECT":
        raise Refused("method_not_allowed", f"{line[1]} is not possible here: only CONNECT is, so use https")
    target = _target(line[2])
    _check_fields([_field(text) for text in lines[1:]], target, needs_host=line[3] == "1")
    return target


def _lines(header: bytes) -> list[str]:
    if not header.endswith(END) or header.index(END) != len(header) - len(END):
        raise _malformed("bytes follow the header before it was answered")
    try:
        text = header[: -len(END)].decode("ascii")
    except UnicodeDecodeError:
        raise _malformed("the header is not ASCII") from None
    return text.split("\r\n")


def _target(text: str) -> Target:
    parts = _TARGET.fullmatch(text)
    if parts is None or int(parts[2]) > 65535:
        raise _malformed("the target is not host:port")
    return Target(parts[1], int(parts[2]))


def _field(line: str) -> tuple[str, str]:
    parts = _FIELD.fullmatch(line)
    if parts is None:
        raise _malformed("a header field is malformed")
    return parts[1].lower(), parts[2]


def _check_fields(fields: list[tuple[str, str]], target: Target, *, needs_host: bool) -> None:
    hosts = [value for name, value in fields if name == "host"]
    if len(hosts) > 1 or (needs_host and not hosts):
        raise _malformed("there must be exactly one Host field")
    if hosts and hosts[0].lower() not in {target.host.lower(), f"{target.host.lower()}:{target.port}"}:
        raise _malformed("Host is not the target")
    for name, value in fields:
        if name == "transfer-encoding" or (name == "content-length" and value != "0"):
            raise _malformed("a CONNECT request has no body")


def _malformed(detail: str) -> Refused:
    return Refused("request_malformed", detail)
