"""The tools of a run: what the model is shown and where each call goes. Fixed and sorted when the run starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from perstackd.domain import tool_names
from perstackd.domain.assignment import base_tools, needs_approval, picked, served_skills
from perstackd.domain.events import Owner, ToolRoute
from perstackd.domain.expert import Approval, Definition, Expert, InteractiveSkill, InteractiveTool
from perstackd.domain.messages import ToolSpec
from perstackd.domain.resolution import delegate_of
from perstackd.domain.tool_calls import ARCHIVE_TOOLS, DAEMON_TOOLS

_DELEGATE_SCHEMA: Final[Mapping[str, object]] = {
    "type": "object",
    "properties": {"query": {"type": "string", "description": "All that the delegate needs to know and to do"}},
    "required": ["query"],
}


@dataclass(frozen=True, slots=True)
class Toolset:
    """Tools by shown name, sorted, and a route for each. `delegates` are (tool name, expert)."""

    tools: tuple[ToolSpec, ...]
    routes: tuple[ToolRoute, ...]
    delegates: tuple[tuple[str, Expert], ...]


def toolset(
    definition: Definition, expert: Expert, catalogue: Sequence[ToolSpec], served: Mapping[str, Sequence[ToolSpec]]
) -> Toolset:
    """The tools of `expert`; `served` are the tools that each of its skills' servers offered.

    Raises:
        ValueError: a skill's pick or omit names a tool that its server does not offer; the sentence says which.
    """
    base = {tool.name: tool for tool in base_tools(expert, catalogue)}
    delegates = {
        reference: found for reference in expert.delegates if (found := delegate_of(definition, reference)) is not None
    }
    skills = {(skill, tool.name): tool for skill, tools in _offered(expert, served).items() for tool in tools}
    skills |= {(skill.name, tool.name): _asked(tool) for skill in interactive_skills(expert) for tool in skill.tools}
    tools, routes, experts = [], [], []
    for named in tool_names.name_tools(tuple(base), tuple(delegates), tuple(skills)):
        match named.origin:
            case tool_names.Origin.BASE:
                tools.append(base[named.tool])
                routes.append(ToolRoute(named.shown, _base_owner(named.tool), named.tool))
            case tool_names.Origin.DELEGATE:
                delegate = delegates[named.source]
                experts.append((named.shown, delegate))
                tools.append(ToolSpec(named.shown, delegate.description or delegate.key, dict(_DELEGATE_SCHEMA)))  # type: ignore[arg-type]
                routes.append(ToolRoute(named.shown, Owner.DELEGATE, delegate.key))
            case tool_names.Origin.SKILL:
                tools.append(replace(skills[(named.source, named.tool)], name=named.shown))
                routes.append(_skill_route(expert, named))
    return Toolset(tuple(tools), tuple(routes), tuple(experts))


def interactive_skills(expert: Expert) -> tuple[InteractiveSkill, ...]:
    """The skills whose tools a person answers."""
    return tuple(skill for skill in expert.skills if isinstance(skill, InteractiveSkill))


def _base_owner(tool: str) -> Owner:
    if tool in DAEMON_TOOLS:
        return Owner.DAEMON
    return Owner.ARCHIVE if tool in ARCHIVE_TOOLS else Owner.SANDBOX


def _asked(tool: InteractiveTool) -> ToolSpec:
    return ToolSpec(tool.name, tool.description, tool.input_schema)


def _skill_route(expert: Expert, named: tool_names.NamedTool) -> ToolRoute:
    skill = next(skill for skill in expert.skills if skill.name == named.source)
    if isinstance(skill, InteractiveSkill):
        return ToolRoute(named.shown, Owner.PERSON, named.tool, named.source)
    approval = needs_approval(skill, named.tool)
    return ToolRoute(named.shown, Owner.SANDBOX, named.tool, named.source, approval)


def _offered(expert: Expert, served: Mapping[str, Sequence[ToolSpec]]) -> dict[str, tuple[ToolSpec, ...]]:
    offered = {}
    for skill in served_skills(expert):
        tools = served.get(skill.name, ())
        names = {tool.name for tool in tools}
        approved = () if isinstance(skill.approval, Approval) else skill.approval
        unknown = sorted({*skill.pick, *skill.omit, *approved} - names)
        if unknown:
            have = ", ".join(sorted(names)) or "none"
            message = f"the skill {skill.name!r} picks, omits or wants approval for {unknown[0]!r}"
            raise ValueError(f"{message}, but its server offers: {have}")
        offered[skill.name] = picked(tools, skill.pick, skill.omit)
    return offered
