"""How far sandboxes may reach at most: the operator's policy, and the package indexes that a template grants.

A value that whoever refuses a job, gives a sandbox its rules or explains them is passed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from perstackd.domain.assignment import PACKAGE_RUNNERS
from perstackd.domain.egress_policy import EgressPolicy, left_out, refusals
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.expert import Expert, Finding, Severity
from perstackd.ports.package_indexes import PackageIndexes


@dataclass(frozen=True, slots=True)
class Reach:
    """`indexes` are those that the template of own skills grants, before the policy is applied to them."""

    policy: EgressPolicy = field(default_factory=EgressPolicy)
    indexes: PackageIndexes = field(default_factory=PackageIndexes)

    def findings(self, experts: Iterable[Expert]) -> Iterator[Finding]:
        """What the experts' skills need and cannot have here; errors are what a job of them is refused for."""
        for expert in experts:
            yield from refusals(self.policy, expert, self._sources())

    def check(self, experts: Iterable[Expert], allow_domains: Sequence[str]) -> None:
        """Raises PerstackError PRECONDITION `egress_not_permitted` with one sentence."""
        wrong = (found.message for found in self.findings(experts) if found.severity is Severity.ERROR)
        asked = (left_out(self.policy, "--allow-domain", domain) for domain in allow_domains)
        for message in (*wrong, *asked):
            if message:
                raise PerstackError(Kind.PRECONDITION, "egress_not_permitted", message)

    def _sources(self) -> Iterator[tuple[str, tuple[tuple[str, int], ...]]]:
        for command in sorted(PACKAGE_RUNNERS):
            yield command, tuple((rule.host, rule.port) for rule in self.indexes.of_command(command).rules)
