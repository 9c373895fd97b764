"""The opening of a run: what its sandbox is told, which skills came up, and the first fact once all are there."""

from dataclasses import dataclass, field

from perstackd.app.run_context import JobContext, RunPlan
from perstackd.app.warm_pool import Lease
from perstackd.domain.assignment import base_tools, chosen_model, sandbox_tools, skill_orders, stdio_skills
from perstackd.domain.events import Payload, SkillConnected, SkillDisconnected, SkillStarting, SkillStderr, StartRun
from perstackd.domain.expert import Expert
from perstackd.domain.messages import ToolSpec
from perstackd.domain.prompt import system_prompt
from perstackd.domain.run import Begin, Fail
from perstackd.domain.session import Assign, LinkLost, SkillPhase, SkillReport
from perstackd.domain.toolset import toolset

_STDERR_KEPT = 4096
NEWS_KEPT = 1 << 20
"""Characters of skills' news that a run's events hold: a sandbox must not fill the store."""
_NEWS_COST = 256


@dataclass(slots=True)
class Opening:
    """What a run has heard of its sandbox so far."""

    served: dict[str, tuple[ToolSpec, ...]] = field(default_factory=dict)
    failed: Fail | None = None
    lost: LinkLost | None = None
    room: int = NEWS_KEPT

    def heard(self, report: SkillReport) -> tuple[Payload, ...]:
        """The events of a skill's news; none once `NEWS_KEPT` is used up. Tools count once: the list is fixed when the
        run starts.
        """
        events = self._told(report)
        self.room -= _NEWS_COST + len(report.detail[:_STDERR_KEPT]) + sum(len(tool.name) for tool in report.tools)
        return events if self.room >= 0 else ()

    def _told(self, report: SkillReport) -> tuple[Payload, ...]:
        match report.phase:
            case SkillPhase.STARTING:
                return (SkillStarting(report.skill),)
            case SkillPhase.CONNECTED:
                self.served.setdefault(report.skill, report.tools)
                names = tuple(tool.name for tool in report.tools)
                return (SkillConnected(report.skill, report.server_name, report.server_version, names),)
            case SkillPhase.STDERR:
                return (SkillStderr(report.skill, report.detail[:_STDERR_KEPT]),)
            case SkillPhase.FAILED:
                message = f"the skill {report.skill!r} could not be started: {report.detail[:500]}"
                self.failed = Fail("skill_failed", message)
                return (SkillDisconnected(report.skill, report.detail[:_STDERR_KEPT]),)
            case _:
                return (SkillDisconnected(report.skill, report.detail[:_STDERR_KEPT]),)


def egress_rules(expert: Expert, allow_domains: tuple[str, ...]) -> tuple[str, ...]:
    """Hosts that the run's sandbox may reach, sorted, each once."""
    named = (domain for skill in stdio_skills(expert) for domain in skill.allowed_domains)
    return tuple(sorted({*named, *allow_domains}))


def assign(context: JobContext, plan: RunPlan, lease: Lease, catalogue: tuple[ToolSpec, ...]) -> Assign:
    """What the sandbox is told. Holds secret values."""
    expert, limits = plan.expert, context.limits
    return Assign(
        expert_key=expert.key,
        workspace_path=lease.workspace_path,
        workspace_read_only=context.read_only,
        skills=skill_orders(expert, context.env),
        base_tools=sandbox_tools(base_tools(expert, catalogue)),
        exec_env=tuple((name, context.env[name]) for name in expert.base.required_env if name in context.env),
        tool_timeout_ms=limits.tool_timeout_ms,
        skill_start_timeout_ms=limits.skill_start_timeout_ms,
        inline_result_bytes=limits.inline_result_bytes,
        result_bytes=limits.result_bytes,
    )


def start_run(
    context: JobContext, plan: RunPlan, catalogue: tuple[ToolSpec, ...], served: dict[str, tuple[ToolSpec, ...]]
) -> Begin | Fail:
    """The first fact, made when the runner first asks for a turn: by then every skill has reported its tools."""
    expert = plan.expert
    missing = [skill.name for skill in stdio_skills(expert) if skill.name not in served]
    if missing:
        return Fail("skill_failed", f"the skill {missing[0]!r} did not report its tools before the first turn")
    try:
        tools = toolset(context.definition, expert, catalogue, served)
    except ValueError as error:
        return Fail("skill_tools_unknown", str(error))
    model = chosen_model(context.model, expert.model, context.definition.model, context.default_model)
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
    )
    return Begin(start)
