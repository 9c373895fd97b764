"""How fast a sandbox may talk: a token bucket for messages and one for bytes, with time as an argument."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Bucket:
    """`rate` units flow in per second up to `burst`. See https://en.wikipedia.org/wiki/Token_bucket."""

    rate: float
    burst: float
    level: float
    at: float

    def taken(self, amount: float, now: float) -> tuple["Bucket", float]:
        """The bucket after taking `amount`, and the seconds to wait before going on (0 when there was enough)."""
        level = min(self.burst, self.level + (now - self.at) * self.rate) - amount
        return replace(self, level=level, at=now), max(0.0, -level / self.rate)

    def recovered(self, amount: float) -> bool:
        """Whether it was at least half full before `amount` was taken."""
        return self.level + amount >= self.burst / 2


def full(rate: float, burst: float, now: float) -> Bucket:
    """A bucket that has not been used."""
    return Bucket(rate, burst, burst, now)
