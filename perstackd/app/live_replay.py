"""Jobs that do an ended job again, with live tools or with a live model: how one is made, and how it compares.

Above are `Checkpoints`, which makes what a new job has from another, and the servicer; below is the store.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from anyio import to_thread

from perstackd.app.begun_run import BegunRun
from perstackd.app.job_log import JOB, Entry
from perstackd.app.job_recovery import events_of
from perstackd.app.job_request import JobRequest
from perstackd.app.reenacting import recording_of
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import JobCreated, Origin
from perstackd.domain.expert import ModelChoice
from perstackd.domain.ids import JobId, RunId, TenantId, is_id
from perstackd.domain.job import JobRecord
from perstackd.domain.job_comparison import Comparison, compare
from perstackd.domain.reenactment import Reenactment, ReplayMode
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_state import RunState
from perstackd.domain.workspace import WorkspaceSpec
from perstackd.ports.event_store import Store


@dataclass(frozen=True, slots=True)
class ReplayBranch:
    """What a new job is made of that does another job again. It has what `checkpoints.Branch` has."""

    request: JobRequest
    parent: JobCreated
    replay: Reenactment

    def created(self, created: JobCreated) -> JobCreated:
        """The new job's first event, with what it has from the other one."""
        asked, parent = self.request.model, self.parent
        return replace(
            created,
            provider=asked.provider or parent.provider,
            model=asked.model or parent.model,
            template=parent.template or created.template,
            skills_template=parent.skills_template or created.skills_template,
            parent_job_id=self.replay.job_id,
            replay=self.replay.mode.value,
        )

    def record(self, record: JobRecord) -> JobRecord:
        """The new job's record, which names the other one."""
        asked, parent = self.request.model, self.parent
        return replace(
            record,
            provider=asked.provider or parent.provider,
            model=asked.model or parent.model,
            parent_job_id=self.replay.job_id,
            replay=self.replay.mode.value,
        )

    def begin(self, created: JobCreated, run_id: RunId) -> tuple[tuple[Entry, ...], tuple[BegunRun, ...]]:
        """What the new job's log begins with: also the history that the other one began with."""
        fact = self.replay.recorded.root.inherited
        if fact is None:
            return ((JOB, created),), ()
        origin = Origin(run_id, RunId(""), self.request.expert_key, 1)
        return ((JOB, created), (origin, fact)), (BegunRun(run_id, RunId(""), "", evolve(RunState(), fact)),)


async def replay_branch(
    store: Store, templates: Collection[str], request: JobRequest, mode: ReplayMode
) -> ReplayBranch:
    """What a new job is made of that does the request's parent again.

    Raises:
        PerstackError: NOT_FOUND `job_not_found`, `template_not_found`; PRECONDITION `job_not_ended`, `job_not_begun`;
            INVALID `replay_invalid` for what has no place in a replay.
    """
    parent = request.parent
    if parent is None:
        raise ValueError("a replay has a parent")
    _check(request, mode)
    record = await ended(store, parent.job_id, request.tenant)
    created = await creation(store, record.id)
    if mode is ReplayMode.TOOLS and created.template and created.template not in templates:
        message = f"job {record.id} ran in the template {created.template!r}, which this daemon does not have now"
        raise PerstackError(Kind.NOT_FOUND, "template_not_found", message)
    recording = await recording_of(store, record.id)
    if recording.root.start is None:
        message = f"job {record.id} ended before its expert began, so there is nothing to replay"
        raise PerstackError(Kind.PRECONDITION, "job_not_begun", message)
    toml = (await store.blobs.get(record.definition_digest)).decode()
    return ReplayBranch(
        _request(request, record, created, toml, mode), created, Reenactment(mode, record.id, recording)
    )


def _check(request: JobRequest, mode: ReplayMode) -> None:
    if request.query or (request.parent is not None and request.parent.checkpoint):
        message = "a replay has the query of the job that it replays and begins where that began; leave out both"
        raise PerstackError(Kind.INVALID, "replay_invalid", message)
    if mode is ReplayMode.TOOLS and (request.model.provider or request.model.model):
        message = "no model is asked when the tools are live; leave out model and provider, or replay with a live model"
        raise PerstackError(Kind.INVALID, "replay_invalid", message)


def _request(request: JobRequest, record: JobRecord, created: JobCreated, toml: str, mode: ReplayMode) -> JobRequest:
    """The recorded job's request; the caller may choose a workspace for live tools, a model for a live one, limits."""
    same = request.parent is not None and request.parent.same_workspace
    live_model = mode is ReplayMode.MODEL
    asked = request.model
    return replace(
        request,
        toml=toml,
        source="perstack.toml",
        expert_key=created.expert_key,
        query=record.query,
        env={} if live_model else request.env,
        workspace=WorkspaceSpec() if live_model else record.workspace if same else request.workspace,
        allow_domains=created.allow_domains,
        budgets=request.budgets.over(created.budgets),
        model=ModelChoice(asked.provider or created.asked_provider, asked.model or created.asked_model),
    )


async def compared(store: Store, job_id: JobId) -> tuple[JobRecord, Comparison]:
    """A replay's record, and how it compares with the job that it replays; in a thread, and both logs are held.

    Raises:
        PerstackError: NOT_FOUND `job_not_found`; PRECONDITION `job_not_ended`, `job_not_replay`, `replayed_job_gone`.
    """
    record = await ended(store, job_id)
    if not record.replay:
        message = f"job {job_id} replays no other; make one with perstackctl job replay JOB --live-tools"
        raise PerstackError(Kind.PRECONDITION, "job_not_replay", message)
    replayed = JobId(record.parent_job_id)
    if await store.jobs.get(replayed) is None:
        message = f"job {replayed}, which {job_id} replays, was deleted; there is nothing to compare it with"
        raise PerstackError(Kind.PRECONDITION, "replayed_job_gone", message)
    recorded, made = await events_of(store, replayed), await events_of(store, job_id)
    return record, await to_thread.run_sync(compare, recorded, made, ReplayMode(record.replay))


async def creation(store: Store, job_id: JobId) -> JobCreated:
    """A job's first event. Raises PerstackError INTERNAL `job_unreadable` when it is another."""
    first = await store.read(job_id, 0, 1)
    created = first[0].event.payload if first else None
    if not isinstance(created, JobCreated):
        message = f"the log of job {job_id} does not begin with its creation"
        raise PerstackError(Kind.INTERNAL, "job_unreadable", message)
    return created


async def ended(store: Store, job_id: JobId, tenant: TenantId | None = None) -> JobRecord:
    """The record of an ended job. Raises PerstackError NOT_FOUND `job_not_found`; PRECONDITION `job_not_ended`."""
    record = await store.jobs.get(job_id) if is_id(job_id) else None
    if record is None or (tenant is not None and record.tenant != tenant):
        message = f"there is no job {job_id[:64]!r}; perstackctl job ls lists them"
        raise PerstackError(Kind.NOT_FOUND, "job_not_found", message)
    if not record.state.final:
        message = f"job {job_id} is {record.state}; wait for its end"
        raise PerstackError(Kind.PRECONDITION, "job_not_ended", message)
    return record
