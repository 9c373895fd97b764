"""Where the sandboxes of an expert may connect to, and the dry run of a connection for people.

Above is the run's party, which puts the rules in force, and the servicer that answers; below is the egress port.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from perstackd.app.job_request import ResolvedRequest
from perstackd.app.reach import Reach
from perstackd.domain.assignment import ServedSkill, installer, own_skills, reaches, shared_skills
from perstackd.domain.egress_policy import KEY, canonical, show
from perstackd.domain.expert import Expert
from perstackd.domain.ids import SandboxId
from perstackd.ports.egress import Egress, EgressExplanation, EgressQuestion, EgressRule, Occupant

Resolve: TypeAlias = Callable[[str, str, str], Awaitable[ResolvedRequest]]
_UNLISTED: Final = frozenset({"host_not_allowed", "port_not_allowed", "egress_not_permitted"})
"""Denials for want of a rule; others say what no rule would mend."""


def rules_of(expert: Expert, skill: ServedSkill | None, allow_domains: Sequence[str], reach: Reach) -> list[EgressRule]:
    """Where one sandbox may connect to: the expert's own, or that of `skill`; what the operator's policy leaves of it.
    The indexes are empty where its template does not grant them. Sorted, each once.
    """
    hosted = shared_skills(expert) if skill is None else (skill,)
    wishes = {pair for each in hosted for pair in reaches(each)} | {(host, 443) for host in allow_domains}
    if skill is not None:
        wishes |= {(rule.host, rule.port) for rule in reach.indexes.of_command(installer(skill)).rules}
    return [EgressRule(host, port) for host, port in sorted(reach.policy.within(wishes))]


def occupant_of(expert: Expert, skill: ServedSkill | None) -> Occupant:
    """Who lives in it."""
    if skill is not None:
        return Occupant(expert.key, (skill.name,), own=True)
    return Occupant(expert.key, tuple(each.name for each in shared_skills(expert)))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What would come of a connection from one sandbox of an expert: its own, or that of a skill."""

    explanation: EgressExplanation
    expert_key: str = ""
    skill: str = ""
    sandbox_id: str = ""


class EgressDryRun:
    """Read-only. Where the operator's policy is what stands in the way, it is named."""

    def __init__(self, egress: Egress, resolve: Resolve, reach: Reach) -> None:
        self._egress = egress
        self._resolve = resolve
        self._reach = reach

    async def of_sandbox(self, sandbox_id: SandboxId, host: str, port: int) -> Verdict:
        """Under the rules that a sandbox has now. Raises as `Egress.explain`."""
        found = await self._explained(EgressQuestion(host, port, sandbox_id=sandbox_id))
        return Verdict(found, sandbox_id=sandbox_id)

    async def of_definition(
        self, definition: tuple[str, str, str], allow_domains: Sequence[str], host: str, port: int
    ) -> list[Verdict]:
        """From each sandbox that a job of it would have: (toml, source, expert key). The key's expert alone; without a
        key all of them.

        Raises:
            PerstackError: as `KnownDefinitions.resolve` and `Egress.explain`.
        """
        found = await self._resolve(*definition)
        experts = found.experts[:1] if definition[2] else found.experts
        return [
            Verdict(
                await self._explained(EgressQuestion(host, port, tuple(self._rules(expert, skill, allow_domains)))),
                expert.key,
                skill.name if skill is not None else "",
            )
            for expert in experts
            for skill in _places(expert)
        ]

    def _rules(self, expert: Expert, skill: ServedSkill | None, allow_domains: Sequence[str]) -> list[EgressRule]:
        return rules_of(expert, skill, allow_domains, self._reach)

    async def _explained(self, question: EgressQuestion) -> EgressExplanation:
        found, policy = await self._egress.explain(question), self._reach.policy
        if found.reason not in _UNLISTED or policy.permits(found.host, found.port):
            return found
        named = show(canonical(found.host), found.port)
        return replace(
            found,
            reason="egress_not_permitted",
            detail=f"{named} is outside of {KEY}, the operator's policy ({policy.text})",
            remedy=f'The operator of the daemon can add it: {KEY} = [..., "{named}"]; no definition or job can.\n',
        )


def _places(expert: Expert) -> Iterator[ServedSkill | None]:
    yield None
    yield from own_skills(expert)
