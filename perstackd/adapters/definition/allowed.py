"""What the operator allows of definitions."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allowed:
    """`plain_hosts`: where a provider's base URL may be plain http, beside loopback. `loopback_endpoints`: whether a
    skill's endpoint may be plain http on the daemon's machine."""

    plain_hosts: frozenset[str] = frozenset()
    loopback_endpoints: bool = False
