"""The opening of a run: what its sandboxes are told, which skills came up, and the first fact once all are there."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from perstackd.app.run_context import JobContext, RunPlan, RunServices
from perstackd.app.run_member import RunMember
from perstackd.app.tool_lists import ListKey, ToolList
from perstackd.domain.assignment import (
    ServedSkill,
    base_tools,
    expert_model,
    installer,
    mount_of,
    sandbox_tools,
    served_skills,
    shared_skills,
    skill_order,
    start_ms,
)
from perstackd.domain.commands import Begin, Fail
from perstackd.domain.events import (
    Owner,
    Payload,
    SkillConnected,
    SkillDisconnected,
    SkillStarting,
    SkillStderr,
    SkillToolsChanged,
    StartRun,
    ToolRenamed,
)
from perstackd.domain.expert import StdioSkill
from perstackd.domain.messages import ToolSpec
from perstackd.domain.prompt import system_prompt
from perstackd.domain.session import Assign, SkillOrder, SkillPhase, SkillReport, StartMode
from perstackd.domain.toolset import toolset
from perstackd.ports.package_indexes import GRANT

_STDERR_KEPT = 4096
NEWS_KEPT = 1 << 20
"""Characters of skills' news that a run's events hold: a sandbox must not fill the store."""
_NEWS_COST = 256


@dataclass(slots=True)
class Opening:
    """What a run knows of its skills. `served` are the tools that its list is made of; those of a cached list are there
    before their server is. `came_up`: the list was fixed by an earlier process.
    """

    services: RunServices
    context: JobContext
    plan: RunPlan
    served: dict[str, tuple[ToolSpec, ...]] = field(default_factory=dict)
    came_up: bool = False
    failed: Fail | None = None
    room: int = field(default_factory=lambda: NEWS_KEPT)

    def recall(self, *, fixed: bool = False) -> None:
        """Take the tools that the skills' servers offered when they were last up. `fixed`: the run has its list."""
        self.came_up = fixed
        for skill in served_skills(self.plan.expert):
            known = self.services.tool_lists.get(self._key(skill.name))
            if known is not None:
                self.served.setdefault(skill.name, known.tools)

    def start_mode(self, skill: ServedSkill) -> StartMode:
        """A server whose tools are known is not waited for."""
        if skill.name not in self.served:
            return StartMode.FIRST
        lazy = isinstance(skill, StdioSkill) and skill.lazy_init
        return StartMode.AT_CALL if lazy else StartMode.BESIDE

    @property
    def complete(self) -> bool:
        """Whether every skill's tools are known."""
        return all(skill.name in self.served for skill in served_skills(self.plan.expert))

    def heard(self, report: SkillReport) -> tuple[Payload, ...]:
        """The events of a skill's news; none once `NEWS_KEPT` is used up."""
        events = self._told(report)
        self.room -= _NEWS_COST + len(report.detail[:_STDERR_KEPT]) + sum(len(tool.name) for tool in report.tools)
        return events if self.room >= 0 else ()

    def _told(self, report: SkillReport) -> tuple[Payload, ...]:
        match report.phase:
            case SkillPhase.STARTING:
                return (SkillStarting(report.skill),)
            case SkillPhase.CONNECTED:
                return self._connected(report)
            case SkillPhase.TOOLS_CHANGED:
                return self._changed(report)
            case SkillPhase.STDERR:
                return (SkillStderr(report.skill, report.detail[:_STDERR_KEPT]),)
            case SkillPhase.FAILED:
                if report.skill not in self.served and not self.came_up:
                    message = f"the skill {report.skill!r} could not be started: {report.detail[:500]}"
                    self.failed = Fail("skill_failed", message)
                return (SkillDisconnected(report.skill, report.detail[:_STDERR_KEPT]),)
            case _:
                return (SkillDisconnected(report.skill, report.detail[:_STDERR_KEPT]),)

    def _connected(self, report: SkillReport) -> tuple[Payload, ...]:
        news = self._changed(report) if report.skill in self.served else ()
        self.served.setdefault(report.skill, report.tools)
        tools = ToolList(report.server_name, report.server_version, report.tools)
        self.services.tool_lists.put(self._key(report.skill), tools)
        names = tuple(tool.name for tool in report.tools)
        return (SkillConnected(report.skill, report.server_name, report.server_version, names), *news)

    def _changed(self, report: SkillReport) -> tuple[SkillToolsChanged, ...]:
        """The list of a run is fixed when it starts; what a server offers otherwise is told and no more."""
        had = {tool.name: tool for tool in self.served.get(report.skill, ())}
        has = {tool.name: tool for tool in report.tools}
        added, removed = tuple(sorted(has.keys() - had.keys())), tuple(sorted(had.keys() - has.keys()))
        changed = tuple(sorted(name for name in had.keys() & has.keys() if had[name] != has[name]))
        return (SkillToolsChanged(report.skill, added, removed, changed),) if added or removed or changed else ()

    def _key(self, skill: str) -> ListKey:
        context = self.context
        digest = context.log.record.definition_digest
        return ListKey(context.tenant, digest, self.plan.expert.key, skill)

    # --- orders -----------------------------------------------------------------------------------------------------
    def assign(self, member: RunMember, step: int, env: Mapping[str, str]) -> Assign:
        """What a sandbox is told. `env` are the values that its expert requires; so it holds secrets."""
        expert, context, limits = self.plan.expert, self.context, self.context.limits
        skill = member.skill
        mount = "rw" if skill is None else mount_of(skill)
        tools = base_tools(expert, self.services.base_tools) if skill is None else ()
        exec_names = expert.base.required_env if skill is None else ()
        return Assign(
            expert_key=expert.key,
            workspace_path="" if mount == "none" else member.lease.workspace_path,
            workspace_read_only=context.read_only or mount == "ro",
            skills=tuple(
                self._order(each, member, env) for each in (shared_skills(expert) if skill is None else (skill,))
            ),
            base_tools=sandbox_tools(tools),
            exec_env=tuple((name, env[name]) for name in exec_names if name in env),
            step=step,
            tool_timeout_ms=limits.tool_timeout_ms,
            skill_start_timeout_ms=limits.skill_start_timeout_ms,
            inline_result_bytes=limits.inline_result_bytes,
            result_bytes=limits.result_bytes,
        )

    def _order(self, skill: ServedSkill, member: RunMember, env: Mapping[str, str]) -> SkillOrder:
        order = skill_order(skill, env, self.start_mode(skill))
        order = replace(order, start_timeout_ms=start_ms(skill, self.context.limits.skill_start_timeout_ms))
        granted = member.skill is not None and member.lease.template.grant == GRANT
        found = dict(self.services.package_indexes.of_command(installer(skill)).environment) if granted else {}
        return replace(order, env=tuple({**found, **dict(order.env)}.items())) if found else order

    # --- the first fact ---------------------------------------------------------------------------------------------
    def begin(self, inherited: StartRun | None = None) -> Begin | Fail:
        """The run's first fact, once every skill's tools are known. One that inherits a history keeps what that was
        made under, whatever the servers and this version of the daemon would offer now.
        """
        context, plan, expert = self.context, self.plan, self.plan.expert
        if inherited is not None:
            limit = self.services.windows.compact_at(inherited.provider, inherited.model)
            return Begin(replace(inherited, query=plan.query, compact_at=limit))
        try:
            tools = toolset(context.definition, expert, self.services.base_tools, self.served)
        except ValueError as error:
            return Fail("skill_tools_unknown", str(error))
        model = expert_model(context.model, expert, context.definition.model, context.default_model, context.tiers)
        retries = context.definition.max_retries
        start = StartRun(
            query=plan.query,
            system=system_prompt(expert, tools.delegates),
            tools=tools.tools,
            routes=tools.routes,
            provider=model.provider,
            model=model.model,
            reasoning=model.reasoning,
            depth=plan.depth,
            call_id=plan.call_id,
            max_steps=expert.max_steps,
            max_retries=retries if retries >= 0 else context.limits.max_retries,
            compact_at=self.services.windows.compact_at(model.provider, model.model),
            provider_tools=expert.provider_tools,
            provider_tool_options=expert.provider_tool_options,
            provider_skills=expert.provider_skills,
        )
        return Begin(start)


def renamed(start: StartRun) -> tuple[ToolRenamed, ...]:
    """The tools that a model sees by another name than their server's."""
    skills = (route for route in start.routes if route.owner in {Owner.SANDBOX, Owner.PERSON} and route.skill)
    return tuple(ToolRenamed(route.skill, route.target, route.name) for route in skills if route.name != route.target)
