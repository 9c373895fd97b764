"""Secrets at rest."""

from typing import Protocol


class Sealer(Protocol):
    """Authenticated encryption under the daemon's master key."""

    def seal(self, plain: bytes, context: str) -> bytes:
        """Encrypt; `context` (such as `job:ID`) must be the same at opening."""
        ...

    def open(self, sealed: bytes, context: str) -> bytes:
        """Decrypt.

        Raises:
            PerstackError: PRECONDITION `seal_broken` when the key, the context or the bytes are not the ones sealed.
        """
        ...
