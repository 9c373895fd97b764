"""A caller's request for a job, checked before anything is written."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from perstackd.domain import host_pattern
from perstackd.domain.assignment import chosen_model, stdio_skills
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.expert import (
    Definition,
    Expert,
    Finding,
    InteractiveSkill,
    Isolation,
    ModelChoice,
    RemoteSkill,
    Severity,
)
from perstackd.domain.ids import TenantId
from perstackd.domain.resolution import resolve
from perstackd.domain.workspace import WorkspaceSpec
from perstackd.ports.definitions import Definitions

MAX_QUERY: Final = 1 << 20
MAX_TOML: Final = 4 << 20
MAX_ENV: Final = 256
MAX_ENV_VALUE: Final = 64 << 10
MAX_DOMAINS: Final = 256
MAX_KEY: Final = 128
MAX_MODEL: Final = 256


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What CreateJob carries. `env` holds secret values: never log it."""

    tenant: TenantId
    source: str
    toml: str
    expert_key: str
    query: str
    workspace: WorkspaceSpec
    idempotency_key: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    allow_domains: tuple[str, ...] = ()
    max_steps: int = 0
    model: ModelChoice = ModelChoice()

    @property
    def digest(self) -> str:
        """Tells a repeated request from another one under the same idempotency key; secret values stay out of it."""
        parts = [
            self.toml,
            self.expert_key,
            self.query,
            str(self.workspace),
            self.workspace.read_only,
            sorted(self.env),
            sorted(self.allow_domains),
            self.max_steps,
            self.model.provider,
            self.model.model,
        ]
        return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    """The definition, the experts of the job (the coordinator first), and what there is to say about them."""

    definition: Definition
    experts: tuple[Expert, ...]
    findings: tuple[Finding, ...]

    @property
    def required_env(self) -> tuple[str, ...]:
        """Names whose values the job may carry, sorted."""
        return tuple(sorted({name for expert in self.experts for name in expert.required_env}))


def resolved(definitions: Definitions, toml: str, source: str, expert_key: str) -> ResolvedRequest:
    """Parse, check and resolve a definition. An empty `expert_key` resolves all experts of the file.

    Raises:
        PerstackError: INVALID `definition_invalid` with all problems in the message; as `resolution.resolve` does.
    """
    if len(toml.encode()) > MAX_TOML:
        raise PerstackError(
            Kind.EXHAUSTED, "definition_too_large", f"{source} is larger than {MAX_TOML >> 20} MiB; split it"
        )
    parsed = definitions.parse(toml, source)
    if parsed.definition is None or parsed.errors:
        raise PerstackError(Kind.INVALID, "definition_invalid", _listed(source, parsed.errors))
    definition = parsed.definition
    experts = resolve(definition, expert_key) if expert_key else definition.experts
    return ResolvedRequest(definition, experts, (*parsed.findings, *_weaker(experts)))


def check(
    request: JobRequest, found: ResolvedRequest, default: ModelChoice, check_provider: Callable[[str], None]
) -> None:
    """Refuse what cannot be carried out.

    Raises:
        PerstackError: INVALID `query_empty`, `query_too_large`, `env_not_required`, `env_missing`, `domain_invalid`,
        `workspace_invalid`,
            `idempotency_key_invalid`, `model_invalid`;
        UNSUPPORTED `skill_kind_not_there`, `approval_not_there`, `provider_not_there`.
    """
    if not request.query.strip():
        raise _invalid("query_empty", "the query is empty; say what the expert shall do")
    if len(request.query.encode()) > MAX_QUERY:
        raise _invalid(
            "query_too_large", f"the query is larger than {MAX_QUERY >> 20} MiB; put the material into a workspace file"
        )
    if len(request.idempotency_key) > MAX_KEY:
        raise _invalid("idempotency_key_invalid", f"the idempotency key is longer than {MAX_KEY} characters")
    if max(len(request.model.provider), len(request.model.model)) > MAX_MODEL:
        raise _invalid("model_invalid", f"the provider or model name is longer than {MAX_MODEL} characters")
    request.workspace.validate()
    _check_env(request, found.required_env)
    _check_domains(request.allow_domains)
    for expert in found.experts:
        _check_skills(expert)
        check_provider(chosen_model(request.model, expert.model, found.definition.model, default).provider)


def _check_env(request: JobRequest, required: tuple[str, ...]) -> None:
    unknown = sorted(set(request.env) - set(required))
    if unknown:
        raise _invalid(
            "env_not_required", f"no expert of this job requires {unknown[0][:128]!r}; only requiredEnv names are taken"
        )
    missing = [name for name in required if name not in request.env]
    if missing:
        names = ", ".join(missing)
        raise _invalid(
            "env_missing", f"the experts require {names}; set them in the environment or in a file of envPath"
        )
    large = [name for name, value in request.env.items() if len(value.encode()) > MAX_ENV_VALUE or "\0" in value]
    if large or len(request.env) > MAX_ENV:
        raise _invalid("env_too_large", f"at most {MAX_ENV} values of {MAX_ENV_VALUE >> 10} KiB without NUL are taken")


def _check_domains(domains: tuple[str, ...]) -> None:
    if len(domains) > MAX_DOMAINS:
        raise _invalid("domain_invalid", f"more than {MAX_DOMAINS} domains")
    for domain in domains:
        if why := host_pattern.problem(domain):
            raise _invalid("domain_invalid", f"the domain {domain[:255]!r} {why}")


def _check_skills(expert: Expert) -> None:
    for skill in expert.skills:
        if isinstance(skill, RemoteSkill | InteractiveSkill):
            kind = "remote" if isinstance(skill, RemoteSkill) else "interactive"
            raise _unsupported(
                "skill_kind_not_there",
                f"the skill {skill.name!r} of {expert.key!r} is {kind}, which is not there yet; use mcpStdioSkill",
            )
    for stdio in stdio_skills(expert):
        if stdio.approval != "never":
            raise _unsupported(
                "approval_not_there",
                f"the skill {stdio.name!r} of {expert.key!r} asks for approval, which is not there yet",
            )


def _weaker(experts: tuple[Expert, ...]) -> tuple[Finding, ...]:
    """Own sandboxes for skills are not there yet: say so wherever one is due."""
    return tuple(
        Finding(
            Severity.WARNING,
            f"the skill {skill.name!r} runs in the expert's own sandbox: sandboxes of their own for skills are not "
            "there yet, so this expert's exec tool can reach the skill's hosts and, without Landlock, its environment",
            key=f"experts.{expert.key}.skills.{skill.name}",
        )
        for expert in experts
        for skill in stdio_skills(expert)
        if skill.isolation is Isolation.OWN
    )


def _listed(source: str, findings: tuple[Finding, ...]) -> str:
    lines = [f"{source}:{finding.line}:{finding.column}: {finding.message}" for finding in findings]
    return "\n".join(lines)


def _invalid(reason: str, message: str) -> PerstackError:
    return PerstackError(Kind.INVALID, reason, message)


def _unsupported(reason: str, message: str) -> PerstackError:
    return PerstackError(Kind.UNSUPPORTED, reason, message)
