"""Identifiers. All but names chosen by people are ULIDs: 26 characters of Crockford's base 32, time-ordered,
made by the clock adapter and never here."""

import re
from typing import Final, NewType

TenantId = NewType("TenantId", str)
JobId = NewType("JobId", str)
RunId = NewType("RunId", str)
EventId = NewType("EventId", str)
SandboxId = NewType("SandboxId", str)

DEFAULT_TENANT: Final = TenantId("default")
ID_LENGTH: Final = 26

_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


def is_id(text: str) -> bool:
    """Whether `text` has the form of an id, see https://github.com/ulid/spec."""
    return _ID.fullmatch(text) is not None


def earliest_id(now_ms: int) -> str:
    """The least id of that millisecond since the epoch: ids made before are below it."""
    value = now_ms << 80
    return "".join(_DIGITS[value >> shift & 31] for shift in range(125, -1, -5))
