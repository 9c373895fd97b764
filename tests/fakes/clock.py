"""A clock that stands until it is told, and counts its ids."""

from perstackd.adapters.clock import ulid_text


class FakeClock:
    """`now` is milliseconds since the epoch. Ids are ULIDs: that time, then 1, 2, 3 ..."""

    def __init__(self, now: int = 1_750_000_000_000) -> None:
        self._now = now
        self._monotonic = 1000.0
        self._ids = 0
        self._last_id_ms = now

    def now_ms(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def new_id(self) -> str:
        self._ids += 1
        self._last_id_ms = max(self._last_id_ms, self._now)
        return ulid_text(self._last_id_ms << 80 | self._ids)

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self._now += round(seconds * 1000)
        self._monotonic += seconds

    def set_wall(self, now: int) -> None:
        """Set the wall clock, also back; monotonic time does not see it."""
        self._now = now
