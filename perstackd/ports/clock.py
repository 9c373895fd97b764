"""Time and identifiers."""

from typing import Protocol


class Clock(Protocol):
    """Wall time for stamps, monotonic time for durations, ids in order of their making."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def new_id(self) -> str:
        """A ULID that sorts after every earlier one of this process."""
        ...
