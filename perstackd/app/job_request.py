"""A caller's request for a job, checked before anything is written."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import astuple, dataclass, field
from typing import Final

from perstackd.app.reach import Reach
from perstackd.domain import host_pattern
from perstackd.domain.assignment import expert_model, own_skills
from perstackd.domain.budget import Budgets
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.expert import Definition, Expert, Finding, ModelChoice
from perstackd.domain.ids import JobId, TenantId
from perstackd.domain.messages import Usage
from perstackd.domain.model_tiers import Tiers
from perstackd.domain.reenactment import ReplayMode
from perstackd.domain.resolution import resolve
from perstackd.domain.secret import without_value
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
class JobParent:
    """The job that a new one goes on from, and at which of its checkpoints: its event's number or RUN/STEP, empty for
    the coordinator's last. With `replay` it is done again from its beginning instead.
    """

    job_id: JobId
    checkpoint: str = ""
    same_workspace: bool = False
    replay: ReplayMode | None = None


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What CreateJob carries. `env` holds secret values: never log it. With a parent, definition and expert are its."""

    tenant: TenantId
    source: str
    toml: str
    expert_key: str
    query: str
    workspace: WorkspaceSpec
    idempotency_key: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    allow_domains: tuple[str, ...] = ()
    budgets: Budgets = field(default_factory=Budgets)
    model: ModelChoice = ModelChoice()
    parent: JobParent | None = None

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
            astuple(self.budgets),
            self.model.provider,
            self.model.model,
            *(astuple(self.parent)[:3] if self.parent else ()),
            *((self.parent.replay,) if self.parent and self.parent.replay else ()),
            *(("shared",) if self.workspace.shared else ()),
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
    return ResolvedRequest(definition, experts, parsed.findings)


@dataclass(frozen=True, slots=True)
class Admission:
    """What a job's request is checked against."""

    model: ModelChoice
    tiers: Tiers
    check_provider: Callable[[str], None]
    price: Callable[[str, str, Usage], int | None]
    templates: frozenset[str]
    skills_template: str
    stored: Callable[[TenantId, str], Collection[str]]
    """Names of the stored secrets that an expert of a tenant gets."""
    reach: Reach


def check(request: JobRequest, found: ResolvedRequest, admission: Admission) -> None:
    """Refuse what cannot be carried out.

    Raises:
        PerstackError: INVALID `query_empty`, `query_too_large`, `env_not_required`, `env_missing`, `domain_invalid`,
        `workspace_invalid`,
            `idempotency_key_invalid`, `model_invalid`;
        PRECONDITION `egress_not_permitted`, `skills_template_missing`, `price_unknown`, `model_tier_unset`;
        UNSUPPORTED `provider_not_there`; DENIED `model_key_missing`.
    """
    if not request.query.strip() and request.parent is None:  # a history may have something to answer
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
    check_domains(request.allow_domains)
    replay = request.parent.replay if request.parent else None
    if replay is not ReplayMode.MODEL:  # which starts nothing that could need them
        _check_env(request, found, admission)
        admission.reach.check(found.experts, request.allow_domains)
    for expert in found.experts:
        if replay is not ReplayMode.MODEL:
            _check_skills(expert, admission)
        if replay is ReplayMode.TOOLS:  # nobody is asked
            continue
        choice = expert_model(request.model, expert, found.definition.model, admission.model, admission.tiers)
        admission.check_provider(choice.provider)
        _check_money(request, choice, admission)


def _check_env(request: JobRequest, found: ResolvedRequest, admission: Admission) -> None:
    unknown = sorted(set(request.env) - set(found.required_env))
    if unknown:
        raise _invalid(
            "env_not_required", f"no expert of this job requires {unknown[0][:128]!r}; only requiredEnv names are taken"
        )
    missing = {
        name: expert.key
        for expert in found.experts
        for name in without_value(expert.required_env, request.env)
        if name not in admission.stored(request.tenant, expert.key)
    }
    if missing:
        names = ", ".join(f"{name} ({key})" for name, key in sorted(missing.items()))
        raise _invalid(
            "env_missing",
            f"the experts require {names}; set them in the environment or in a file of envPath, or store them for "
            "these experts: perstackctl secret put",
        )
    large = [name for name, value in request.env.items() if len(value.encode()) > MAX_ENV_VALUE or "\0" in value]
    if large or len(request.env) > MAX_ENV:
        raise _invalid("env_too_large", f"at most {MAX_ENV} values of {MAX_ENV_VALUE >> 10} KiB without NUL are taken")


def check_domains(domains: tuple[str, ...]) -> None:
    """Raises PerstackError INVALID `domain_invalid`."""
    if len(domains) > MAX_DOMAINS:
        raise _invalid("domain_invalid", f"more than {MAX_DOMAINS} domains")
    for domain in domains:
        if why := host_pattern.problem(domain):
            raise _invalid("domain_invalid", f"the domain {domain[:255]!r} {why}")


def _check_skills(expert: Expert, admission: Admission) -> None:
    own = own_skills(expert)
    if own and admission.skills_template not in admission.templates:
        names = ", ".join(skill.name for skill in own)
        raise PerstackError(
            Kind.PRECONDITION,
            "skills_template_missing",
            f"the skills {names} of {expert.key!r} run in sandboxes of their own, of the template "
            f"{admission.skills_template!r}, which this daemon does not have; its operator adds it to perstackd.toml",
        )


def _check_money(request: JobRequest, choice: ModelChoice, admission: Admission) -> None:
    if request.budgets.microdollars and admission.price(choice.provider, choice.model, Usage(1, 1)) is None:
        model = f"{choice.provider}/{choice.model}"
        message = (
            f"the job has a limit in money, but the price of {model} is not known; its operator sets models.prices"
        )
        raise PerstackError(Kind.PRECONDITION, "price_unknown", message)


def _listed(source: str, findings: tuple[Finding, ...]) -> str:
    places = (source + (f":{found.line}:{found.column}" if found.line else "") for found in findings)
    keys = (f" [{found.key}]" if found.key else "" for found in findings)
    return "\n".join(f"{place}: {found.message}{key}" for place, found, key in zip(places, findings, keys, strict=True))


def _invalid(reason: str, message: str) -> PerstackError:
    return PerstackError(Kind.INVALID, reason, message)
