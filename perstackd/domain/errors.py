"""The one exception of the product: a kind from a closed set, a stable reason, a sentence, and fields that are safe
to show.

Kinds map to gRPC codes in `perstackd.rpc.errors`; reasons are API and never change meaning.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Kind(StrEnum):
    """What went wrong, as far as a caller must tell cases apart."""

    INVALID = "invalid"
    NOT_FOUND = "not_found"
    ALREADY_EXISTS = "already_exists"
    CONFLICT = "conflict"
    PRECONDITION = "precondition"
    DENIED = "denied"
    UNAUTHENTICATED = "unauthenticated"
    EXHAUSTED = "exhausted"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    UNSUPPORTED = "unsupported"
    INTERNAL = "internal"


class PerstackError(Exception):
    """Something a caller can be told. The message says what was wrong, where, and what to do.

    `reason` is a stable snake_case string. `fields` hold short strings, never a secret.
    `retryable` says that the same request may succeed later without a change.
    """

    def __init__(
        self,
        kind: Kind,
        reason: str,
        message: str,
        *,
        fields: Mapping[str, str] | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.reason = reason
        self.message = message
        self.fields: Mapping[str, str] = MappingProxyType(dict(fields or {}))
        self.retryable = retryable
