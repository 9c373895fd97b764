"""Host patterns of egress lists: an exact name, or `*.` and a suffix."""

import re
from typing import Final

_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMERIC: Final = re.compile(r"(0x[0-9a-f]*|[0-9]+)")


def problem(pattern: str) -> str:
    """Why `pattern` cannot be allowed, as the end of a sentence; empty when it can.

    Addresses are refused in every notation, and so are punycode labels: they make one name look like another.
    """
    name = pattern.lower().removesuffix(".").removeprefix("*.")
    labels = name.split(".")
    # Folding makes ASCII of some characters that only look like it, such as the Kelvin sign.
    if not pattern.isascii() or not name or len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return "is not a host name, nor *. and a host name"
    if _NUMERIC.fullmatch(labels[-1]):  # each notation of IPv4 ends so; those of IPv6 have colons
        return "is an address; only names can be allowed"
    if any(label.startswith("xn--") for label in labels):
        return "has a punycode label (xn--), which can look like another name"
    if pattern.startswith("*.") and len(labels) < 2:
        return "would allow a whole top-level domain"
    return ""
