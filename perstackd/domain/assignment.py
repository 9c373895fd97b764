"""What a sandbox is told when it is claimed, and what the model is shown: pure functions of expert and job."""

from collections.abc import Mapping, Sequence

from perstackd.domain.events import SecretReleased
from perstackd.domain.expert import BASE_SKILL, Expert, ModelChoice, StdioSkill
from perstackd.domain.messages import ToolSpec
from perstackd.domain.session import SkillOrder
from perstackd.domain.tool_calls import DAEMON_TOOLS


def stdio_skills(expert: Expert) -> tuple[StdioSkill, ...]:
    """The skills whose servers run in the sandbox."""
    return tuple(skill for skill in expert.skills if isinstance(skill, StdioSkill))


def skill_orders(expert: Expert, env: Mapping[str, str]) -> tuple[SkillOrder, ...]:
    """The servers to start, each with only the values that it declared."""
    return tuple(
        SkillOrder(
            name=skill.name,
            command=argv(skill),
            env=tuple((name, env[name]) for name in skill.required_env if name in env),
            pick=skill.pick,
            omit=skill.omit,
            lazy_init=False,  # a lazy skill's tools are known only once it was started; the model must see them
            tool_timeout_ms=skill.tool_timeout_ms,
        )
        for skill in stdio_skills(expert)
    )


def argv(skill: StdioSkill) -> tuple[str, ...]:
    """The command of a stdio skill. A package is run by its runner, which must not ask questions."""
    if not skill.package:
        return (skill.command, *skill.args)
    consent = ("-y",) if skill.command == "npx" else ()
    return (skill.command, *consent, skill.package, *skill.args)


def released_secrets(expert: Expert, env: Mapping[str, str]) -> tuple[SecretReleased, ...]:
    """The record of which names went to which skill; never a value."""
    base = tuple(SecretReleased(name, BASE_SKILL) for name in expert.base.required_env if name in env)
    named = ((name, skill.name) for skill in stdio_skills(expert) for name in skill.required_env if name in env)
    return (*base, *(SecretReleased(name, skill) for name, skill in named))


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
    return tuple(tool.name for tool in tools if tool.name not in DAEMON_TOOLS)


def chosen_model(*choices: ModelChoice) -> ModelChoice:
    """Field by field the first choice that says something; the strongest comes first."""
    provider = next((choice.provider for choice in choices if choice.provider), "")
    model = next((choice.model for choice in choices if choice.model), "")
    reasoning = next((choice.reasoning for choice in choices if choice.reasoning != ""), "low")
    base = next((choice for choice in choices if choice.base_url), ModelChoice())
    return ModelChoice(provider, model, reasoning, base.base_url, base.headers)
