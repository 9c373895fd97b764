"""Messages of the expert service as values."""

from collections.abc import Iterable

from perstack.v1 import experts_pb2

from perstackctl.client import resolution as v


def findings(messages: Iterable[experts_pb2.Finding]) -> tuple[v.Finding, ...]:
    """What there is to say about a definition."""
    return tuple(
        v.Finding(
            v.Severity.ERROR if m.severity == experts_pb2.SEVERITY_ERROR else v.Severity.WARNING,
            m.message,
            m.line,
            m.column,
            m.key,
        )
        for m in messages
    )


def resolution(message: experts_pb2.ResolveResponse) -> v.Resolution:
    """What a definition says."""
    limits = message.limits
    return v.Resolution(
        experts=tuple(map(_expert, message.experts)),
        required_env=tuple(message.required_env),
        env_paths=tuple(message.env_paths),
        findings=findings(message.findings),
        provider=message.provider,
        model=message.model,
        limits=v.ResolvedLimits(
            limits.max_steps, limits.max_retries, limits.generation_timeout_ms, limits.tool_timeout_ms
        ),
        template=message.template,
    )


def _expert(m: experts_pb2.ResolvedExpert) -> v.ResolvedExpert:
    return v.ResolvedExpert(
        key=m.key,
        version=m.version,
        description=m.description,
        delegates=tuple(m.delegates),
        skills=tuple(m.skills),
        digest=m.digest,
        skill_details=tuple(map(_skill, m.skill_details)),
        required_env=tuple(m.required_env),
        tags=tuple(m.tags),
        provider=m.provider,
        model=m.model,
        reasoning=m.reasoning,
        max_steps=m.max_steps,
        model_tier=m.model_tier,
    )


def _skill(m: experts_pb2.ResolvedSkill) -> v.ResolvedSkill:
    return v.ResolvedSkill(
        name=m.name,
        type=m.type,
        isolation=m.isolation,
        target=m.target,
        tools=tuple(m.tools),
        pick=tuple(m.pick),
        omit=tuple(m.omit),
        required_env=tuple(m.required_env),
        allowed_domains=tuple(m.allowed_domains),
        workspace=m.workspace,
        approval=tuple(m.approval),
        tool_timeout_ms=m.tool_timeout_ms,
        start_timeout_ms=m.start_timeout_ms,
        lazy_init=m.lazy_init,
    )
