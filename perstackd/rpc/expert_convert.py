"""Experts and skills as callers see them: as a job of the definition would have them, with the daemon's defaults."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from perstack.v1 import experts_pb2 as pb

from perstackd.app.job_context import JobDefaults
from perstackd.app.job_request import ResolvedRequest
from perstackd.domain.assignment import base_tools, chosen_model, expert_model
from perstackd.domain.errors import PerstackError
from perstackd.domain.expert import (
    BASE_SKILL,
    Approval,
    Definition,
    Expert,
    InteractiveSkill,
    Isolation,
    ModelChoice,
    RemoteSkill,
    Skill,
    StdioSkill,
)
from perstackd.domain.expert_digest import expert_digest
from perstackd.domain.messages import ToolSpec
from perstackd.rpc import convert


@dataclass(frozen=True, slots=True)
class Terms:
    """What counts where a definition says nothing, and the built-in tools."""

    defaults: JobDefaults
    base_tools: Sequence[ToolSpec]


def resolution(found: ResolvedRequest, terms: Terms) -> pb.ResolveResponse:
    """The experts of a request in their order; provider and model are the first one's."""
    definition, defaults = found.definition, terms.defaults
    file = definition.model
    model = _model(found.experts[0], file, defaults) if found.experts else chosen_model(file, defaults.model)
    return pb.ResolveResponse(
        experts=[_expert(expert, definition, terms) for expert in found.experts],
        required_env=found.required_env,
        env_paths=definition.env_paths,
        findings=map(convert.finding, found.findings),
        provider=model.provider,
        model=model.model,
        limits=_limits(definition, defaults),
        template=definition.template if definition.template in defaults.templates else defaults.template,
    )


def _model(expert: Expert, file: ModelChoice, defaults: JobDefaults) -> ModelChoice:
    """Who answers an expert; without a model when its tier means none here, which refuses its jobs and no other's."""
    try:
        return expert_model(ModelChoice(), expert, file, defaults.model, defaults.tiers)
    except PerstackError as error:
        if error.reason != "model_tier_unset":
            raise
        return replace(chosen_model(expert.model, file, defaults.model), model="")


def _limits(definition: Definition, defaults: JobDefaults) -> pb.ResolvedLimits:
    limits, retries = defaults.limits, definition.max_retries
    return pb.ResolvedLimits(
        max_steps=definition.max_steps or defaults.budgets.max_steps,
        max_retries=retries if retries >= 0 else limits.max_retries,
        generation_timeout_ms=definition.timeout_ms or limits.generation_timeout_ms,
        tool_timeout_ms=limits.tool_timeout_ms,
    )


def _expert(expert: Expert, definition: Definition, terms: Terms) -> pb.ResolvedExpert:
    model = _model(expert, definition.model, terms.defaults)
    return pb.ResolvedExpert(
        key=expert.key,
        version=expert.version,
        description=expert.description,
        delegates=expert.delegates,
        skills=[skill.name for skill in expert.skills],
        digest=expert_digest(expert),
        skill_details=[_base(expert, terms.base_tools), *map(_skill, expert.skills)],
        required_env=expert.required_env,
        tags=expert.tags,
        provider=model.provider,
        model=model.model,
        reasoning=str(model.reasoning),
        max_steps=expert.max_steps,
        model_tier=expert.model_tier if not expert.model.model else "",
    )


def _base(expert: Expert, catalogue: Sequence[ToolSpec]) -> pb.ResolvedSkill:
    return pb.ResolvedSkill(
        name=BASE_SKILL,
        type="base",
        isolation=Isolation.SHARED,
        tools=sorted(tool.name for tool in base_tools(expert, catalogue)),
        pick=expert.base.pick,
        omit=expert.base.omit,
        required_env=expert.base.required_env,
    )


def _skill(skill: Skill) -> pb.ResolvedSkill:
    match skill:
        case InteractiveSkill():
            tools = [tool.name for tool in skill.tools]
            return pb.ResolvedSkill(name=skill.name, type="interactiveSkill", tools=tools)
        case StdioSkill():
            message = _served(
                skill, "mcpStdioSkill", " ".join(filter(None, (skill.command, skill.package, *skill.args)))
            )
            message.workspace = skill.workspace
            message.lazy_init = skill.lazy_init
            return message
        case RemoteSkill():
            type_ = "mcpSseSkill" if skill.transport == "sse" else "mcpHttpSkill"
            message = _served(skill, type_, skill.endpoint)
            message.workspace = "none" if skill.isolation is Isolation.OWN else ""
            return message


def _served(skill: StdioSkill | RemoteSkill, type_: str, target: str) -> pb.ResolvedSkill:
    approval = skill.approval if isinstance(skill.approval, tuple) else ()
    return pb.ResolvedSkill(
        name=skill.name,
        type=type_,
        isolation=skill.isolation,
        target=target,
        pick=skill.pick,
        omit=skill.omit,
        required_env=skill.required_env,
        allowed_domains=skill.allowed_domains,
        approval=["*"] if skill.approval == Approval.ALWAYS else approval,
        tool_timeout_ms=skill.tool_timeout_ms,
        start_timeout_ms=skill.start_timeout_ms,
    )
