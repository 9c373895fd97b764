"""Models: one streamed turn at a time."""

from collections.abc import AsyncIterator
from typing import Protocol

from perstackd.domain.messages import ModelEvent, ModelRequest


class Models(Protocol):
    """A provider, or several behind one door."""

    def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Deltas as they come, then exactly one Turn, which is complete; nothing follows it.

        Cancelling the iteration ends the provider's call. No retry happens inside beyond what the provider's own SDK
        was told to do; a cut stream is never a finished turn.

        Raises:
            PerstackError: `model_overloaded`, `model_unreachable`, `model_timeout`, `model_stream_broken` (all
            UNAVAILABLE, retryable);
                `model_key_missing`, `model_key_refused` (DENIED); `context_too_long` (INVALID);
                `model_refused_request` (INVALID); `model_not_found` (NOT_FOUND); `no_recorded_turn` (NOT_FOUND);
                `provider_not_there` (UNSUPPORTED). `fields["retry_after_ms"]` when the provider said so.
        """
        ...

    async def close(self) -> None:
        """Close connections. Idempotent."""
        ...
