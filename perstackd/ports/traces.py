"""What sandboxes leave on the host beside what the engine tells of."""

from collections.abc import Collection
from typing import Protocol

from perstackd.domain.traces import Leftover, Snapshot


class Traces(Protocol):
    """Looks at the host and takes away. What is ours, and what nobody looks after, is decided by the caller."""

    async def look(self) -> Snapshot:
        """What there is. To be asked before the engine is asked what it knows: what is noted is noted before it runs.

        Raises:
            OSError: The host cannot be looked at.
        """
        ...

    async def remove(self, leftover: Leftover) -> None:
        """End its processes, then take away the rest. Idempotent. What is not any more what it was when it was looked
        at is left alone.

        Raises:
            PerstackError: CONFLICT `container_known` when the engine knows the container after all, UNAVAILABLE
                `traces_left` with what stayed; what asking the engine raises.
            OSError: The host refused.
        """
        ...

    async def forget(self, container_ids: Collection[str]) -> None:
        """Nothing is left of these containers: they are noted no longer. Idempotent."""
        ...
