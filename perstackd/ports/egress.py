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
class Occupant:
    """Who lives in a sandbox: an expert with its shell and the skills beside it, or (`own`) one skill of it alone."""

    expert: str
    skills: tuple[str, ...] = ()
    own: bool = False


@dataclass(frozen=True, slots=True)
class EgressQuestion:
    """What would come of a CONNECT: under these rules, or under those that a sandbox has now."""

    host: str
    port: int = 443
    rules: tuple[EgressRule, ...] = ()
    sandbox_id: SandboxId | None = None


@dataclass(frozen=True, slots=True)
class EgressExplanation:
    """The answer. `reason` and `detail` are those of a denial and empty when it would be dialled; `rule` is the one
    that covers the host, `host:port`. `addresses` are what the name stands for now, each with why it is not dialled
    ("" when it is). `remedy` says what to do, a sentence a line.
    """

    host: str
    port: int
    reason: str = ""
    detail: str = ""
    rule: str = ""
    addresses: tuple[tuple[str, str], ...] = ()
    remedy: str = ""

    @property
    def allowed(self) -> bool:
        """Whether it would be dialled."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class EgressAccess:
    """One connection: refused with a reason, or ended with its counts, and with a reason when it was cut."""

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

    async def allow(self, sandbox_id: SandboxId, rules: Sequence[EgressRule], occupant: Occupant | None = None) -> None:
        """Replace the sandbox's policy; in force on return. It also has the operator's routes for the occupant.

        Raises:
            PerstackError: PRECONDITION `egress_secret_missing` when a route needs a value that is not there.
        """
        ...

    async def explain(self, question: EgressQuestion) -> EgressExplanation:
        """The dry run: names are looked up, nothing is dialled.

        Raises:
            PerstackError: NOT_FOUND `egress_not_listening` for a sandbox without a listener.
        """
        ...

    async def close(self, sandbox_id: SandboxId) -> None:
        """Close listener and tunnels. Idempotent."""
        ...

    def subscribe(self, observer: Callable[[EgressAccess], None]) -> None:
        """Call `observer` for each access, in order, on the loop."""
        ...
