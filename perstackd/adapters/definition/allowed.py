"""What the operator allows of definitions."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allowed:
    """`plain_hosts`: where a provider's base URL may be plain http, beside loopback. `loopback_endpoints`: whether a
    skill's endpoint may be plain http on loopback."""

    plain_hosts: frozenset[str] = frozenset()
    loopback_endpoints: bool = False


def reaches_loopback(blocks: Iterable[str]) -> bool:
    """Whether CIDR blocks of allowed addresses have one of this machine's own. Raises ValueError for what is none."""
    networks = [ipaddress.ip_network(block, strict=False) for block in blocks]
    loopback = [ipaddress.ip_address(address) for address in ("127.0.0.1", "::1")]
    return any(address in network for network in networks for address in loopback)
