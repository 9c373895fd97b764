"""A circuit breaker: after several failures in a row nobody asks for a while, then one call finds out.

Pure; time is an argument.
"""


class Breaker:
    """Closed, open for `cool_down` seconds after `threshold` failures in a row, then half-open: one call at a time."""

    def __init__(self, threshold: int, cool_down: float) -> None:
        self._threshold = threshold
        self._cool_down = cool_down
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False

    def admits(self, now: float) -> bool:
        """Whether a call may be made. Each admitted call must be reported as succeeded, failed or abandoned."""
        if self._opened_at is None:
            return True
        if self._probing or now - self._opened_at < self._cool_down:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        """The other side answered, whatever it said."""
        self._failures = 0
        self._opened_at = None
        self._probing = False

    def failed(self, now: float) -> None:
        """No answer came."""
        self._failures += 1
        self._probing = False
        if self._failures >= self._threshold:
            self._opened_at = now

    def abandoned(self) -> None:
        """The caller went away before there was an answer."""
        self._probing = False

    def waits(self, now: float) -> float:
        """Seconds until the next call is admitted; 0 when it is now."""
        return 0.0 if self._opened_at is None else max(0.0, self._opened_at + self._cool_down - now)
