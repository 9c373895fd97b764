"""PURE. What a refused client reads: a status line that says why, and a body that says which line to add.

Most clients show a proxy's status line and drop its body, so the cause stands in both.
"""

from http import HTTPStatus
from typing import Final

from perstack_egress.policy import DEFAULT_PORT
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
_MORE_ADDRESSES: Final = "The operator can open an address with egress.allow_addresses.\n"
_MORE_BYTES: Final = "The operator can raise egress.max_sandbox_bytes and egress.max_tunnel_bytes.\n"
_REMEDIES: Final = {
    "address_not_global": _MORE_ADDRESSES,
    "address_is_this_host": _MORE_ADDRESSES,
    "host_punycode": "Only names of ASCII letters, digits and hyphens can be allowed.\n",
    "host_is_address": "Use the host's name, and allow that.\n",
    "sandbox_bytes_exceeded": _MORE_BYTES,
    "tunnel_bytes_exceeded": _MORE_BYTES,
    "route_unknown": "The operator gives routes to experts and skills in egress.routes.\n",
}


def render(refused: Refused, host: str = "", port: int = 0, *, through_route: bool = False) -> bytes:
    """The whole HTTP response. `host` is put into it only in canonical form: pass "" for anything else."""
    body = _body(refused, host, port).encode("ascii", "replace")
    title = refused.detail if host else HTTPStatus(refused.status).phrase
    allow = "Allow: CONNECT\r\n" if refused.status == HTTPStatus.METHOD_NOT_ALLOWED and not through_route else ""
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


def remedy(reason: str, host: str, port: int) -> str:
    """What to do about a denial, one sentence a line; empty when there is nothing to do about it here."""
    match reason:
        case "host_not_allowed" if port == DEFAULT_PORT:
            return (
                f'To allow it, add to the skill in perstack.toml: allowedDomains = ["{host}"]\n'
                f"or for one job: perstackctl run --allow-domain {host}\n"
            )
        case "egress_not_permitted":
            named = host if port == DEFAULT_PORT else f"{host}:{port}"
            return f'The operator of the daemon can add it: egress.allow_hosts = [..., "{named}"]; no definition can.\n'
        case "host_not_allowed" | "port_not_allowed":
            return f"Names of allowedDomains are for port 443; {host}:{port} is open to a skill whose endpoint it is.\n"
        case _:
            return _REMEDIES.get(reason, "")


def _body(refused: Refused, host: str, port: int) -> str:
    return f"perstack-egress: {refused.detail} ({refused.reason}).\n{remedy(refused.reason, host, port)}"
