"""Wall time, monotonic time and ULIDs (https://github.com/ulid/spec): the only source of ids and of `now`."""

import threading
import time
from collections.abc import Callable
from secrets import randbits
from typing import Final

_DIGITS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = tuple(high + low for high in _DIGITS for low in _DIGITS)
_SHIFTS: Final = tuple(range(120, -1, -10))
_RANDOM_BITS: Final = 80


def ulid_text(value: int) -> str:
    """The 26 characters of a ULID's 128 bits."""
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in _SHIFTS])


class SystemClock:
    """The machine's clocks. `new_id` may be called from any thread.

    Ids made in one millisecond count up from a random start; so do those made while the wall clock is behind an
    earlier id, and their time part then stays that of the earlier one.
    """

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns, random_bits: Callable[[int], int] = randbits) -> None:
        self._wall_ns = wall_ns
        self._random_bits = random_bits
        self._last = 0
        self._lock = threading.Lock()

    def now_ms(self) -> int:
        return self._wall_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def new_id(self) -> str:
        now = self.now_ms()
        with self._lock:
            # Counting past 2^80 carries into the time part: the id is then a millisecond early, and still in order.
            self._last = self._fresh(now) if now > self._last >> _RANDOM_BITS else self._last + 1
            return ulid_text(self._last)

    def _fresh(self, now: int) -> int:
        return now << _RANDOM_BITS | self._random_bits(_RANDOM_BITS)
