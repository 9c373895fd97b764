"""An egress without a process: keeps listeners and policies, and decides a CONNECT when a test asks for one.

Passes tests/contracts/test_egress.py together with the real proxy. It makes no socket: `attempt` stands for what a
sandbox does at its own.
"""

from collections.abc import Callable, Sequence

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.ports.egress import EgressAccess, EgressExplanation, EgressQuestion, EgressRule, Occupant


class FakeEgress:
    """What a test may look at: `paths`, `rules`, `occupants`, `closed`, `accesses`. Set `failure` to have every call
    raise it.
    """

    def __init__(self) -> None:
        self.paths: dict[SandboxId, str] = {}
        self.rules: dict[SandboxId, tuple[EgressRule, ...]] = {}
        self.occupants: dict[SandboxId, Occupant] = {}
        self.closed: list[SandboxId] = []
        self.accesses: list[EgressAccess] = []
        self.failure: PerstackError | None = None
        self._open: list[tuple[SandboxId, EgressRule]] = []
        self._observers: list[Callable[[EgressAccess], None]] = []

    async def listen(self, sandbox_id: SandboxId, path: str) -> None:
        self._fail()
        if sandbox_id in self.paths:
            raise PerstackError(
                Kind.ALREADY_EXISTS,
                "egress_already_listening",
                f"{sandbox_id} has a listener: close it first",
            )
        if len(path.encode()) > 107:
            raise PerstackError(
                Kind.INVALID,
                "socket_path_too_long",
                f"{path!r} is over 107 bytes: use a shorter directory",
            )
        self.paths[sandbox_id] = path
        self.rules[sandbox_id] = ()

    async def allow(self, sandbox_id: SandboxId, rules: Sequence[EgressRule], occupant: Occupant | None = None) -> None:
        self._fail()
        if sandbox_id not in self.paths:
            raise PerstackError(
                Kind.NOT_FOUND,
                "egress_not_listening",
                f"{sandbox_id} has no listener: call listen first",
            )
        for rule in rules:
            if not rule.host.removeprefix("*.") or "xn--" in rule.host or "*" in rule.host.removeprefix("*."):
                raise PerstackError(Kind.INVALID, "egress_rule_invalid", f"{rule.host!r} is no host name or *.suffix")
        if occupant is not None:
            self.occupants[sandbox_id] = occupant
        self.rules[sandbox_id] = tuple(EgressRule(rule.host.lower().rstrip("."), rule.port) for rule in rules)
        for owner, target in list(self._open):
            if owner == sandbox_id and self._refusal(sandbox_id, target.host, target.port):
                self.end(sandbox_id, target.host, target.port, reason="policy_changed")

    async def close(self, sandbox_id: SandboxId) -> None:
        self._fail()
        if self.paths.pop(sandbox_id, None) is None:
            return
        for owner, target in list(self._open):
            if owner == sandbox_id:
                self.end(sandbox_id, target.host, target.port, reason="listener_closed")
        del self.rules[sandbox_id]
        self.closed.append(sandbox_id)

    def subscribe(self, observer: Callable[[EgressAccess], None]) -> None:
        self._observers.append(observer)

    def attempt(self, sandbox_id: SandboxId, host: str, port: int = 443) -> bool:
        """A CONNECT from inside; whether a tunnel is open now. A refusal is reported at once."""
        reason = self._refusal(sandbox_id, host.lower().rstrip("."), port)
        if reason:
            self._report(EgressAccess(sandbox_id, host, port, False, reason))
        else:
            self._open.append((sandbox_id, EgressRule(host.lower().rstrip("."), port)))
        return not reason

    def end(
        self, sandbox_id: SandboxId, host: str, port: int = 443, *, up: int = 0, down: int = 0, reason: str = ""
    ) -> None:
        """The end of a tunnel that `attempt` opened, reported with its counts."""
        self._open.remove((sandbox_id, EgressRule(host, port)))
        self._report(EgressAccess(sandbox_id, host, port, True, reason, up, down, 1))

    def is_open(self, sandbox_id: SandboxId, host: str, port: int = 443) -> bool:
        """Whether such a tunnel is open."""
        return (sandbox_id, EgressRule(host, port)) in self._open

    async def explain(self, question: EgressQuestion) -> EgressExplanation:
        """Every name leads to 127.0.0.1."""
        self._fail()
        rules = question.rules
        if question.sandbox_id is not None:
            if question.sandbox_id not in self.paths:
                raise PerstackError(Kind.NOT_FOUND, "egress_not_listening", "no listener: call listen first")
            rules = self.rules[question.sandbox_id]
        host, reason = question.host.lower().rstrip("."), ""
        covering = [rule for rule in rules if _matches(rule.host, host)]
        if not any(rule.port == question.port for rule in covering):
            reason = "port_not_allowed" if covering else "host_not_allowed"
        fitting = [rule for rule in covering if rule.port == question.port] or covering
        return EgressExplanation(
            host=host,
            port=question.port,
            reason=reason,
            detail=f"{host} is not allowed" if reason else "",
            rule=f"{fitting[0].host}:{fitting[0].port}" if fitting else "",
            addresses=(("127.0.0.1", ""),),
            remedy=f'allowedDomains = ["{host}"] or --allow-domain {host}' if reason == "host_not_allowed" else "",
        )

    def _refusal(self, sandbox_id: SandboxId, host: str, port: int) -> str:
        if sandbox_id not in self.rules:
            return "listener_closed"
        matching = [rule for rule in self.rules[sandbox_id] if _matches(rule.host, host)]
        if not matching:
            return "host_not_allowed"
        return "" if any(rule.port == port for rule in matching) else "port_not_allowed"

    def _report(self, access: EgressAccess) -> None:
        self.accesses.append(access)
        for observer in self._observers:
            observer(access)

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


def _matches(rule: str, host: str) -> bool:
    return host.endswith(rule[1:]) and host != rule[2:] if rule.startswith("*.") else host == rule
