"""Bounds of every wait and every number in the proxy; values of the command line, frozen once parsed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Times are seconds. `rate` and `burst` bound new connections of one listener. Bytes are both directions together,
    0 is no limit.
    """

    header_timeout: float = 10.0
    hello_timeout: float = 10.0
    dial_timeout: float = 10.0
    idle_timeout: float = 600.0
    connections: int = 64
    tunnel_bytes: int = 0
    sandbox_bytes: int = 0
    lookups: int = 4
    rate: float = 50.0
    burst: int = 200
    tls_ports: frozenset[int] = frozenset({443})
