"""PURE. Host names in one canonical form, and whether a sandbox's policy has them.

Everything that a resolver might read as an address is told apart from names before any list is consulted, so no
notation of an address can pass as a name.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_network
from typing import Final

from perstack_egress.addresses import Address, Network, inside
from perstack_egress.refusal import Refused

DEFAULT_PORT: Final = 443

# Underscores are no host name characters by RFC 1123, but names of buckets and hosts out there have them.
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_ROUTE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
_HEADER: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]{0,8190}[\x21-\x7e])?")
# A name whose last label is a number is an IPv4 address to inet_aton: 2130706433, 0x7f.1, 0177.0.0.1, 127.1
# (https://url.spec.whatwg.org/#ends-in-a-number-checker). No top-level domain looks so.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Host:
    """A canonical host: a lower-case name without a trailing dot, or an address and its canonical text."""

    text: str
    address: Address | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """An exact host, or every name below `suffix` (".example.com", never the suffix itself)."""

    host: str
    port: int = DEFAULT_PORT
    suffix: bool = False

    def __str__(self) -> str:
        return f"{'*' if self.suffix else ''}{self.host}:{self.port}"

    def covers(self, host: Host) -> bool:
        """Whether the rule speaks of this host, on whatever port. A suffix never covers an address."""
        if self.suffix:
            return host.address is None and host.text.endswith(self.host)
        return host.text == self.host


@dataclass(frozen=True, slots=True)
class Route:
    """One origin under a name of its own, with the headers that are put into every request. They hold secrets."""

    name: str
    host: Host
    port: int = DEFAULT_PORT
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Policy:
    """What one sandbox may reach. The empty policy denies everything. `ceiling` is what the operator lets any sandbox
    reach, None for all: it allows nothing by itself, the rules were held to it before; it says whose denial one is.
    """

    rules: tuple[Rule, ...] = ()
    networks: tuple[Network, ...] = ()
    routes: tuple[Route, ...] = ()
    ceiling: tuple[Rule, ...] | None = None

    def rule_for(self, host: Host, port: int) -> Rule | None:
        """The rule that allows the pair, else one that speaks of the host on another port."""
        covering = [rule for rule in self.rules if rule.covers(host)]
        return next((rule for rule in covering if rule.port == port), covering[0] if covering else None)

    def route(self, name: str) -> Route:
        """The route of that name. Raises Refused route_unknown."""
        for route in self.routes:
            if route.name == name:
                return route
        known = ", ".join(route.name for route in self.routes) or "none"
        raise Refused("route_unknown", f"this sandbox has no route {name}; it has {known}")

    def check(self, host: Host, port: int) -> None:
        """Let an allowed pair pass.

        Raises:
            Refused: host_is_address, egress_not_permitted, host_not_allowed, port_not_allowed.
        """
        if host.address is not None and not inside(host.address, self.networks):
            raise Refused("host_is_address", f"{host.text} is an address: name the host instead")
        covering = [rule for rule in self.rules if rule.covers(host)]
        if any(rule.port == port for rule in covering):
            return
        if self.ceiling is not None and not any(rule.covers(host) and rule.port == port for rule in self.ceiling):
            named = host.text if port == DEFAULT_PORT else f"{host.text}:{port}"
            raise Refused("egress_not_permitted", f"{named} is outside of egress.allow_hosts, the operator's policy")
        if not covering:
            raise Refused("host_not_allowed", f"{host.text} is not in allowedDomains of this sandbox")
        ports = ", ".join(str(other) for other in sorted({rule.port for rule in covering}))
        raise Refused("port_not_allowed", f"{host.text} is allowed on port {ports} only, not on {port}")

    def permits(self, host: Host, port: int) -> bool:
        """`check` as a question."""
        try:
            self.check(host, port)
        except Refused:
            return False
        return True


def parse_host(text: str) -> Host:
    """The canonical form of a host as a client or a rule writes it.

    Raises:
        Refused: host_is_address for an address in any but its canonical notation, host_punycode, host_invalid.
    """
    if text.startswith("[") or ":" in text:
        return _ipv6(text)
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if not name.isascii() or len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise Refused("host_invalid", "this is not a host name")
    if _NUMBER.fullmatch(labels[-1]):
        return _ipv4(name)
    if any(label.startswith("xn--") for label in labels):
        # Names that look alike are told apart by nobody who reads a list.
        raise Refused("host_punycode", f"{name} has a punycode label, and those are not allowed")
    return Host(name)


def parse_rule(host: str, port: int) -> Rule:
    """A rule of the daemon's message; port 0 means 443.

    Raises:
        Refused: as parse_host, and host_invalid for a port out of range or a pattern that is not `*.` and a suffix.
    """
    if not 0 <= port <= 65535:
        raise Refused("host_invalid", f"{port} is not a port")
    if not host.startswith("*."):
        return Rule(parse_host(host).text, port or DEFAULT_PORT)
    suffix = parse_host(host[2:])
    if suffix.address is not None:
        raise Refused("host_invalid", "an address cannot be a suffix")
    return Rule(f".{suffix.text}", port or DEFAULT_PORT, suffix=True)


def parse_route(name: str, host: str, port: int, headers: Iterable[tuple[str, str]]) -> Route:
    """A route of the daemon's message; port 0 means 443.

    Raises:
        Refused: host_invalid and as parse_host. No text of it holds a header's value.
    """
    if not _ROUTE.fullmatch(name):
        raise Refused("host_invalid", f"{name[:64]!r} is no name of a route: lower-case letters, digits and hyphens")
    if not 0 <= port <= 65535:
        raise Refused("host_invalid", f"{port} is not a port")
    listed = tuple((header.lower(), value) for header, value in headers)
    for header, value in listed:
        if not _HEADER.fullmatch(header) or not _VALUE.fullmatch(value):
            raise Refused("host_invalid", f"header {header[:64]!r} of route {name} cannot be sent")
    return Route(name, parse_host(host), port or DEFAULT_PORT, listed)


def parse_policy(rules: Iterable[tuple[str, int]], networks: Iterable[str], routes: Iterable[Route] = ()) -> Policy:
    """A policy from the daemon's message.

    Raises:
        Refused: of the first rule that is not one; its detail names the rule.
        ValueError: a network is not a CIDR block.
    """
    blocks = tuple(ip_network(block) for block in networks)
    return Policy(tuple(_named_rule(*rule) for rule in rules), blocks, tuple(routes))


def parse_ceiling(patterns: Iterable[str]) -> tuple[Rule, ...]:
    """The operator's patterns, each `HOST:PORT`. What no rule could be permits nothing, and is left out."""
    rules: list[Rule] = []
    for host, _, port in (pattern.rpartition(":") for pattern in patterns):
        with suppress(Refused):
            rules.append(parse_rule(host, int(port) if port.isdecimal() else -1))
    return tuple(rules)


def _named_rule(host: str, port: int) -> Rule:
    try:
        return parse_rule(host, port)
    except Refused as refused:
        raise Refused(refused.reason, f"rule {host[:253]!r}: {refused.detail}") from None


def _ipv4(text: str) -> Host:
    try:
        address = IPv4Address(text)
    except AddressValueError:
        raise Refused("host_is_address", f"{text} is an address: name the host instead") from None
    return Host(str(address), address)


def _ipv6(text: str) -> Host:
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = IPv6Address(inner)
    except AddressValueError:
        raise Refused("host_invalid", "this is neither a host name nor an address") from None
    if address.scope_id is not None or address.ipv4_mapped is not None:
        raise Refused("host_is_address", "mapped and scoped addresses are not allowed: name the host instead")
    return Host(str(address), address)
