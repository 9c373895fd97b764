"""What a job runs with, made from its first event: the same when it is created and when it is taken up again."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from perstackd.app.job_log import JobLog
from perstackd.app.job_request import JobRequest, ResolvedRequest
from perstackd.app.run_context import JobContext, RunLimits, StopOrder
from perstackd.app.scrubbing import Scrubber
from perstackd.app.standing import Standing
from perstackd.domain.assignment import expert_model
from perstackd.domain.budget import Budgets
from perstackd.domain.events import JobCreated
from perstackd.domain.expert import ModelChoice
from perstackd.domain.ids import JobId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.model_tiers import Tiers
from perstackd.domain.reenactment import Reenactment


@dataclass(frozen=True, slots=True)
class JobDefaults:
    """Operator's choices for jobs that do not say. `budgets` bound what a caller did not. `store_patience_s` is how
    long running jobs wait for a store that cannot be written.
    """

    template: str = "base"
    skills_template: str = "skills"
    templates: frozenset[str] = frozenset({"base"})
    model: ModelChoice = ModelChoice("anthropic", "", "low")
    tiers: Tiers = field(default_factory=dict)
    budgets: Budgets = field(default_factory=lambda: Budgets(max_steps=100))
    max_running: int = 200
    store_patience_s: float = 3600.0
    limits: RunLimits = field(default_factory=RunLimits)


def new_record(
    request: JobRequest, found: ResolvedRequest, defaults: JobDefaults, *, job_id: JobId, now: int, digest: str
) -> JobRecord:
    """The record of a job that is about to be created; `digest` names the definition's blob."""
    first, file = found.experts[0], found.definition.model
    model = expert_model(request.model, first, file, defaults.model, defaults.tiers)
    budgets = request.budgets.over(Budgets(max_steps=found.definition.max_steps)).over(defaults.budgets)
    return JobRecord(
        id=job_id,
        tenant=request.tenant,
        state=JobState.QUEUED,
        expert_key=found.experts[0].key,
        query=request.query,
        created_at=now,
        workspace=request.workspace,
        provider=model.provider,
        model=model.model,
        definition_digest=digest,
        idempotency_key=request.idempotency_key,
        request_digest=request.digest,
        budgets=budgets,
    )


def created_event(request: JobRequest, found: ResolvedRequest, defaults: JobDefaults, record: JobRecord) -> JobCreated:
    """A job's first event: all that it was started with, secret values excepted."""
    template = found.definition.template
    return JobCreated(
        expert_key=record.expert_key,
        query=record.query,
        definition_digest=record.definition_digest,
        workspace=str(record.workspace),
        provider=record.provider,
        model=record.model,
        required_env=found.required_env,
        allow_domains=request.allow_domains,
        template=template if template in defaults.templates else defaults.template,
        skills_template=defaults.skills_template,
        asked_provider=request.model.provider,
        asked_model=request.model.model,
        budgets=record.budgets,
    )


def job_context(
    created: JobCreated,
    found: ResolvedRequest,
    defaults: JobDefaults,
    log: JobLog,
    env: Mapping[str, str],
    *,
    replay: Reenactment | None = None,
) -> JobContext:
    """What the job's runs share. `env` holds secret values."""
    record = log.record
    return JobContext(
        job_id=record.id,
        tenant=record.tenant,
        created_at=record.created_at,
        definition=found.definition,
        template=created.template or defaults.template,
        skills_template=created.skills_template or defaults.skills_template,
        model=ModelChoice(created.asked_provider, created.asked_model),
        default_model=defaults.model,
        tiers=defaults.tiers,
        read_only=record.workspace.read_only,
        env=dict(env),
        allow_domains=created.allow_domains,
        limits=defaults.limits,
        log=log,
        stop=StopOrder(),
        standing=Standing(),
        scrubber=Scrubber(env),
        replay=replay,
    )
