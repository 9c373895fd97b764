"""How many bytes may still pass: of one connection, and of a sandbox over all its connections."""

from dataclasses import dataclass
from typing import Final

_UNITS: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


class Spent(Exception):  # noqa: N818 - a decision, not a fault
    """No more may pass; `reason` is a key of refusal.STATUS."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(slots=True)
class Allowance:
    """Bytes in both directions together; `limit` 0 is none. Spent once, it stays spent."""

    limit: int
    reason: str
    whose: str
    used: int = 0

    def take(self, amount: int) -> None:
        """Count bytes that are about to pass. Raises Spent when they must not: nothing of them may pass then."""
        if self.limit and self.used + amount > self.limit:
            self.used = self.limit
            raise Spent(self.reason, f"{self.whose} has moved the {_shown(self.limit)} that it may")
        self.used += amount

    def check(self) -> None:
        """Raises Spent when nothing is left."""
        if self.limit and self.used >= self.limit:
            self.take(1)


def sandbox_allowance(limit: int, used: int = 0) -> Allowance:
    """Of all connections of a sandbox."""
    return Allowance(limit, "sandbox_bytes_exceeded", "this sandbox", used)


@dataclass(slots=True)
class Counts:
    """Bytes that were handed over, from the sandbox (`up`) and to it (`down`)."""

    up: int = 0
    down: int = 0


class Meter:
    """Counts one connection against its own limit and its sandbox's."""

    def __init__(self, limit: int, sandbox: Allowance) -> None:
        self.counts = Counts()
        self._own = Allowance(limit, "tunnel_bytes_exceeded", "this connection")
        self._sandbox = sandbox

    def up(self, amount: int) -> None:
        """Before bytes go out. Raises Spent."""
        self._take(amount)
        self.counts.up += amount

    def down(self, amount: int) -> None:
        """Before bytes go in. Raises Spent."""
        self._take(amount)
        self.counts.down += amount

    def _take(self, amount: int) -> None:
        self._own.take(amount)
        self._sandbox.take(amount)


def _shown(count: int) -> str:
    for size, unit in _UNITS:
        if count % size == 0:
            return f"{count // size} {unit}"
    return f"{count} bytes"
