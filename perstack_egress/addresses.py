"""PURE. Which resolved addresses may be dialled: global ones, and what the operator named.

The tables are the special-purpose registries of IANA (RFC 6890 and successors). `ipaddress.is_global` alone is not
enough: it differs between Python releases and calls translation and tunnel prefixes global though they can carry any
IPv4 address.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_SPECIAL: Final[tuple[Network, ...]] = tuple(
    ip_network(block)
    for block in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relay
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",
        "::/96",  # unspecified, loopback, IPv4-compatible
        "::ffff:0:0/96",  # IPv4-mapped
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",  # Teredo, ORCHID and other protocol assignments
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)


def inside(address: Address, networks: Sequence[Network]) -> bool:
    """Whether one of the networks holds the address."""
    return any(address.version == network.version and address in network for network in networks)


def may_dial(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether `address` is plainly global, or inside what the operator allows.

    An allowed NAT64 prefix does not open what it translates to: the IPv4 address inside must be allowed as well.
    """
    if isinstance(address, IPv6Address) and inside(address, allowed):
        embedded = _embedded(address)
        return embedded is None or may_dial(embedded, allowed)
    if inside(address, allowed):
        return True
    return address.is_global and not address.is_multicast and not inside(address, _SPECIAL)


def why_not(address: Address, allowed: Sequence[Network]) -> str:
    """Why `may_dial` says no, as the end of a sentence; empty when it says yes."""
    if may_dial(address, allowed):
        return ""
    embedded = _embedded(address) if isinstance(address, IPv6Address) else None
    if embedded is not None:
        return f"stands for {embedded}, which must be allowed as well as {address}"
    block = next((block for block in _SPECIAL if inside(address, (block,))), None)
    return f"is not global: it lies in {block}" if block is not None else "is not global"


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in ip_network("64:ff9b::/96"):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour
