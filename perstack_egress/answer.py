"""PURE. What a refused client reads: a status line that says why, and a body that says which line to add.

Most clients show a proxy's status line and drop its body, so the cause stands in both.
"""

from http import HTTPStatus
from typing import Final

from perstack_egress.refusal import Refused

ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"

# Fatal alerts (RFC 8446 section 6): the client's TLS library then names a cause instead of a broken pipe.
_ALERTS: Final = {
    "client_hello_malformed": 50,
    "client_hello_too_large": 50,
    "sni_missing": 112,
    "sni_mismatch": 112,
    "client_hello_timeout": 49,
}


def render(refused: Refused, host: str = "", port: int = 0) -> bytes:
    """The whole HTTP response. `host` is put into it only in canonical form: pass "" for anything else."""
    body = _body(refused, host, port).encode("ascii", "replace")
    title = refused.detail if host else HTTPStatus(refused.status).phrase
    allow = "Allow: CONNECT\r\n" if refused.status == HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {refused.status} {title}\r\n"
        f'Proxy-Status: perstack-egress; details="{refused.reason}"\r\n'
        f"Content-Type: text/plain; charset=us-ascii\r\nContent-Length: {len(body)}\r\n{allow}Connection: close\r\n\r\n"
    )
    return head.encode("ascii", "replace") + body


def alert(reason: str) -> bytes:
    """One fatal TLS alert record for a refusal after the 200; empty where the client does not speak TLS."""
    code = _ALERTS.get(reason)
    return b"" if code is None else bytes((21, 3, 3, 0, 2, 2, code))


def _body(refused: Refused, host: str, port: int) -> str:
    text = f"perstack-egress: {refused.detail} ({refused.reason}).\n"
    match refused.reason:
        case "host_not_allowed":
            text += (
                f'To allow it, add to the skill in perstack.toml: allowedDomains = ["{host}"]\n'
                f"or for one job: perstackctl run --allow-domain {host}\n"
            )
        case "port_not_allowed":
            text += f"Another port needs a rule of the operator for {host}:{port}.\n"
        case "address_not_global" | "address_is_this_host":
            text += "The operator can open an address with egress.allow_addresses.\n"
        case "host_punycode":
            text += "Only names of ASCII letters, digits and hyphens can be allowed.\n"
        case _:
            pass
    return text
