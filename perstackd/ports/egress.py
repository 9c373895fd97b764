"""The way out: one listener per sandbox, handed to a proxy process with a policy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from perstackd.domain.ids import SandboxId


@dataclass(frozen=True, slots=True)
class EgressRule:
    """A host, exact or `*.suffix`, and a port."""

    host: str
    port: int = 443


@dataclass(frozen=True, slots=True)
class EgressAccess:
    """One CONNECT: refused with a reason, or ended with its counts."""

    sandbox_id: SandboxId
    host: str
    port: int
    allowed: bool
    reason: str = ""
    bytes_up: int = 0
    bytes_down: int = 0
    duration_ms: int = 0


class Egress(Protocol):
    """A new listener denies everything until a policy is set."""

    async def listen(self, sandbox_id: SandboxId, path: str) -> None:
        """Make the socket at `path` and hand it over with an empty policy."""
        ...

    async def allow(self, sandbox_id: SandboxId, rules: Sequence[EgressRule]) -> None:
        """Replace the sandbox's policy; in force on return."""
        ...

    async def close(self, sandbox_id: SandboxId) -> None:
        """Close listener and tunnels. Idempotent."""
        ...

    def subscribe(self, observer: Callable[[EgressAccess], None]) -> None:
        """Call `observer` for each access, in order, on the loop."""
        ...
