"""What a sandbox is told when it is claimed, and what the model is shown: pure functions of expert and job."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from perstackd.domain.events import SecretReleased
from perstackd.domain.expert import (
    BASE_SKILL,
    Approval,
    Expert,
    InteractiveSkill,
    Isolation,
    ModelChoice,
    RemoteSkill,
    StdioSkill,
)
from perstackd.domain.messages import ToolSpec
from perstackd.domain.model_tiers import Tiers, model_of_tier
from perstackd.domain.session import Endpoint, SkillOrder, StartMode
from perstackd.domain.tool_calls import ARCHIVE_TOOLS, DAEMON_TOOLS

ServedSkill: TypeAlias = StdioSkill | RemoteSkill
PACKAGE_RUNNERS: Final = frozenset({"npx", "uvx"})
INSTALL_TIMES: Final = 3
"""A package of a hundred others takes 10 s on an idle machine, and over 60 s beside ten busy sandboxes on two cores."""
_NAME: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def served_skills(expert: Expert) -> tuple[ServedSkill, ...]:
    """The skills with a server."""
    return tuple(skill for skill in expert.skills if not isinstance(skill, InteractiveSkill))


def own_skills(expert: Expert) -> tuple[ServedSkill, ...]:
    """The skills that have a sandbox of their own."""
    return tuple(skill for skill in served_skills(expert) if skill.isolation is Isolation.OWN)


def shared_skills(expert: Expert) -> tuple[ServedSkill, ...]:
    """The skills whose servers run beside the expert's shell."""
    return tuple(skill for skill in served_skills(expert) if skill.isolation is Isolation.SHARED)


def skill_order(skill: ServedSkill, env: Mapping[str, str], start: StartMode = StartMode.FIRST) -> SkillOrder:
    """A server to start, with only the values that it declared."""
    endpoint = isinstance(skill, RemoteSkill)
    return SkillOrder(
        name=skill.name,
        command=() if isinstance(skill, RemoteSkill) else argv(skill),
        env=() if endpoint else tuple((name, env[name]) for name in skill.required_env if name in env),
        endpoint=_endpoint(skill, env) if isinstance(skill, RemoteSkill) else None,
        pick=skill.pick,
        omit=skill.omit,
        start=start,
        private=skill.isolation is Isolation.OWN,
        tool_timeout_ms=skill.tool_timeout_ms,
    )


def _endpoint(skill: RemoteSkill, env: Mapping[str, str]) -> Endpoint:
    headers = tuple((name, _filled(value, env)) for name, value in skill.headers)
    return Endpoint(skill.transport, skill.endpoint, headers)


def _filled(value: str, env: Mapping[str, str]) -> str:
    """With the values of the names that it holds as `${NAME}`."""
    return _NAME.sub(lambda found: env.get(found[1], ""), value)


def argv(skill: StdioSkill) -> tuple[str, ...]:
    """The command of a stdio skill. A package is run by its runner, which must not ask questions."""
    if not skill.package:
        return (skill.command, *skill.args)
    consent = ("-y",) if skill.command == "npx" else ()
    return (skill.command, *consent, skill.package, *skill.args)


def installer(skill: ServedSkill) -> str:
    """The package runner, `npx` or `uvx`, that installs the server when it starts; empty when the image has it."""
    return skill.command if isinstance(skill, StdioSkill) and skill.command in PACKAGE_RUNNERS else ""


def start_ms(skill: ServedSkill, usual_ms: int) -> int:
    """How long its server may take to start, in milliseconds; `usual_ms` is the daemon's bound, `INSTALL_TIMES` that
    where a package has to be brought first.
    """
    return skill.start_timeout_ms or usual_ms * (INSTALL_TIMES if installer(skill) else 1)


def reaches(skill: ServedSkill) -> tuple[tuple[str, int], ...]:
    """Hosts and ports that its server may connect to, its package's index left aside."""
    hosts = tuple((domain, 443) for domain in skill.allowed_domains)
    if not isinstance(skill, RemoteSkill):
        return hosts
    address = urlsplit(skill.endpoint)
    return (*hosts, (address.hostname or "", address.port or 443))


def mount_of(skill: ServedSkill) -> str:
    """How an own sandbox sees the workspace: `none`, `ro` or `rw`."""
    if isinstance(skill, RemoteSkill):
        return "none"
    return skill.workspace or "ro"


def base_secrets(expert: Expert, env: Mapping[str, str]) -> tuple[SecretReleased, ...]:
    """The record of which names went into exec's environment; never a value."""
    return tuple(SecretReleased(name, BASE_SKILL) for name in expert.base.required_env if name in env)


def skill_secrets(skill: ServedSkill, env: Mapping[str, str]) -> tuple[SecretReleased, ...]:
    """The record of which names went to a skill; never a value."""
    return tuple(SecretReleased(name, skill.name) for name in skill.required_env if name in env)


def needs_approval(skill: ServedSkill, tool: str) -> bool:
    """Whether a call of the tool waits for a person."""
    if isinstance(skill.approval, Approval):
        return skill.approval is Approval.ALWAYS
    return tool in skill.approval


def picked(tools: Sequence[ToolSpec], pick: Sequence[str], omit: Sequence[str]) -> tuple[ToolSpec, ...]:
    """Omit first, then pick; an empty pick means all that is left."""
    left = (tool for tool in tools if tool.name not in omit)
    return tuple(tool for tool in left if not pick or tool.name in pick)


def base_tools(expert: Expert, catalogue: Sequence[ToolSpec]) -> tuple[ToolSpec, ...]:
    """The built-in tools that the expert has. It can always complete."""
    chosen = picked(catalogue, expert.base.pick, expert.base.omit)
    completion = tuple(tool for tool in catalogue if tool.name == "attemptCompletion" and tool not in chosen)
    return (*completion, *chosen)


def sandbox_tools(tools: Sequence[ToolSpec]) -> tuple[str, ...]:
    """Names of the built-in tools that the sandbox runs; the others are the daemon's."""
    return tuple(tool.name for tool in tools if tool.name not in DAEMON_TOOLS | ARCHIVE_TOOLS)


def expert_model(
    asked: ModelChoice, expert: Expert, definition: ModelChoice, default: ModelChoice, tiers: Tiers
) -> ModelChoice:
    """Who answers an expert: what the caller asked for, then the expert's own model, its tier, the file's, the default.

    Raises:
        PerstackError: PRECONDITION `model_tier_unset`.
    """
    choice = chosen_model(asked, expert.model, definition, default)
    if not expert.model_tier or expert.model.model or asked.model:
        return choice
    return replace(choice, model=model_of_tier(tiers, choice.provider, expert.model_tier))


def chosen_model(*choices: ModelChoice) -> ModelChoice:
    """Field by field the first choice that says something; the strongest comes first."""
    provider = next((choice.provider for choice in choices if choice.provider), "")
    model = next((choice.model for choice in choices if choice.model), "")
    reasoning = next((choice.reasoning for choice in choices if choice.reasoning != ""), "low")
    base = next((choice for choice in choices if choice.base_url), ModelChoice())
    return ModelChoice(provider, model, reasoning, base.base_url, base.headers)
