"""The one exception of the proxy: a sandbox asked for something that it does not get, and the stable reason."""

from typing import Final

# Reason -> HTTP status of the answer. Reasons are API: they reach events and `perstackctl`.
STATUS: Final[dict[str, int]] = {
    "request_malformed": 400,
    "request_too_large": 431,
    "request_timeout": 408,
    "method_not_allowed": 405,
    "too_many_connections": 503,
    "sandbox_bytes_exceeded": 403,
    "host_invalid": 400,
    "host_is_address": 403,
    "host_punycode": 403,
    "host_not_allowed": 403,
    "egress_not_permitted": 403,
    "port_not_allowed": 403,
    "address_not_global": 403,
    "address_is_this_host": 403,
    "resolve_failed": 502,
    "resolve_timeout": 504,
    "dial_failed": 502,
    "dial_timeout": 504,
    "internal": 500,
    # Of requests through a route.
    "route_unknown": 404,
    "origin_tls_failed": 502,
    "origin_failed": 502,
    # These come after the 200, when only the tunnel can be closed: with a TLS alert where the client speaks TLS.
    "not_tls": 403,
    "client_hello_malformed": 403,
    "client_hello_too_large": 403,
    "client_hello_timeout": 408,
    "sni_missing": 403,
    "sni_mismatch": 403,
    "client_gone": 400,
    "tunnel_bytes_exceeded": 403,
    "policy_changed": 403,
    "listener_closed": 503,
    "proxy_restarted": 503,
}


class Refused(Exception):  # noqa: N818 - a decision, not a fault
    """A refusal: `reason` is a key of STATUS, `detail` a sentence for the person who reads the answer."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    @property
    def status(self) -> int:
        """The HTTP status that goes with the reason."""
        return STATUS[self.reason]
