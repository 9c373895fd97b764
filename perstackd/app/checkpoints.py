"""A job's checkpoints, read from its log: listed, looked at, and gone on from in a new job.

Nothing is kept beside the log: the fold is fast enough that a snapshot would cost more than it saves (benchmark
`replay.fold_eps`).
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

import anyio
from anyio import to_thread

from perstackd.app.begun_run import BegunRun
from perstackd.app.job_log import JOB, Entry
from perstackd.app.job_request import JobRequest, ResolvedRequest, resolved
from perstackd.app.live_replay import ReplayBranch, creation, replay_branch
from perstackd.domain.checkpoint import Checkpoint, JobFold, inherited, named, needs_query
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import HistoryInherited, JobCreated, Origin
from perstackd.domain.expert import Expert, ModelChoice
from perstackd.domain.expert_digest import expert_digest
from perstackd.domain.ids import JobId, RunId, TenantId, is_id
from perstackd.domain.job import JobRecord
from perstackd.domain.messages import Usage
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_state import RunState
from perstackd.ports.definitions import Definitions
from perstackd.ports.event_store import Store

MAX_LISTED: Final = 1000
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class CheckpointLine:
    """A checkpoint in a list: without its history, of which it holds the length."""

    seq: int
    run_id: RunId
    parent_run_id: RunId
    expert_key: str
    step: int
    timestamp: int
    outcome: str
    messages: int
    pending: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """A checkpoint with what its run was made of. `required_env` are the names whose values a job that goes on from
    here must be given.
    """

    checkpoint: Checkpoint
    expert: Expert
    expert_digest: str
    definition_digest: str
    required_env: tuple[str, ...]
    env_paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Branch:
    """What a new job is made of that goes on from a checkpoint."""

    request: JobRequest
    parent: JobCreated
    fact: HistoryInherited
    replay: None = None

    def created(self, created: JobCreated) -> JobCreated:
        """The new job's first event, with what it has from its parent."""
        start, parent = self.fact.start, self.parent
        return replace(
            created,
            provider=start.provider,
            model=start.model,
            template=parent.template or created.template,
            skills_template=parent.skills_template or created.skills_template,
            parent_job_id=self.fact.parent_job_id,
            parent_seq=self.fact.parent_seq,
        )

    def record(self, record: JobRecord) -> JobRecord:
        """The new job's record, with its parent and the model that stays."""
        start = self.fact.start
        return replace(
            record,
            provider=start.provider,
            model=start.model,
            parent_job_id=self.fact.parent_job_id,
            parent_seq=self.fact.parent_seq,
        )

    def begin(self, created: JobCreated, run_id: RunId) -> tuple[tuple[Entry, ...], tuple[BegunRun, ...]]:
        """What the new job's log begins with, and the run that is begun by it."""
        origin = Origin(run_id, RunId(""), self.request.expert_key, 1)
        begun = BegunRun(run_id, RunId(""), "", evolve(RunState(), self.fact))
        return ((JOB, created), (origin, self.fact)), (begun,)


class Checkpoints:
    """Reads what is in the store; holds nothing."""

    def __init__(self, store: Store, definitions: Definitions, templates: frozenset[str]) -> None:
        self._store = store
        self._definitions = definitions
        self._templates = templates
        self.writing = anyio.Lock()
        """Held while a new log is made of parts of another: nothing that it refers to may go meanwhile."""

    async def page(self, job_id: JobId, after_seq: int, limit: int) -> tuple[CheckpointLine, ...]:
        """At most `limit` checkpoints after an event, in the order of the log. Raises PerstackError NOT_FOUND
        `job_not_found`.
        """
        await self._record(job_id)
        most, lines = min(limit or MAX_LISTED, MAX_LISTED), list[CheckpointLine]()
        async with aclosing(self._checkpoints(job_id)) as found:
            async for checkpoint in found:
                if checkpoint.seq > after_seq:
                    lines.append(line_of(checkpoint))
                if len(lines) >= most:
                    break
        return tuple(lines)

    async def get(self, job_id: JobId, wanted: str) -> CheckpointView:
        """One checkpoint, named as `domain.checkpoint.chosen` says.

        Raises:
            PerstackError: NOT_FOUND `job_not_found`, `checkpoint_not_found`; INVALID `checkpoint_invalid`; what reading
                the job's definition raises.
        """
        record = await self._record(job_id)
        created, checkpoint = await self._found(job_id, wanted)
        found = await self._resolved(record.definition_digest, checkpoint.expert_key)
        expert = found.experts[0]
        return CheckpointView(
            checkpoint,
            expert,
            expert_digest(expert),
            created.definition_digest,
            found.required_env,
            found.definition.env_paths,
        )

    async def branch(self, request: JobRequest) -> Branch | ReplayBranch | None:
        """What the request's parent gives to it; None when it names none.

        Raises:
            PerstackError: as `get` does; PRECONDITION `checkpoint_empty`, `job_not_ended` when no checkpoint is named
                and the job goes on; INVALID `query_empty` when the model spoke last; NOT_FOUND `template_not_found`
                when the operator took the parent's away; of a replay as `live_replay.replay_branch` does.
        """
        parent = request.parent
        if parent is None:
            return None
        if parent.replay is not None:
            return await replay_branch(self._store, self._templates, request, parent.replay)
        record = await self._record(parent.job_id, request.tenant)
        if not parent.checkpoint and not record.state.final:
            message = f"job {record.id} goes on; wait for its end, or name one of its checkpoints"
            raise PerstackError(Kind.PRECONDITION, "job_not_ended", message)
        created, checkpoint = await self._found(record.id, parent.checkpoint)
        fact = inherited(checkpoint, request.model.provider, request.model.model)
        if not request.query.strip() and needs_query(fact.messages):
            message = f"the run of checkpoint {checkpoint.seq} has answered; say in the query how it shall go on"
            raise PerstackError(Kind.INVALID, "query_empty", message)
        if created.template and created.template not in self._templates:
            message = f"job {record.id} ran in the template {created.template!r}, which this daemon does not have now"
            raise PerstackError(Kind.NOT_FOUND, "template_not_found", message)
        toml = (await self._store.blobs.get(record.definition_digest)).decode()
        return Branch(_request(request, record, created, checkpoint, toml), created, fact)

    async def _found(self, job_id: JobId, wanted: str) -> tuple[JobCreated, Checkpoint]:
        fits, checkpoint = named(wanted), None
        created = await creation(self._store, job_id)
        async with aclosing(self._checkpoints(job_id)) as found:
            async for each in found:
                checkpoint = each if fits(each) else checkpoint
        if checkpoint is None:
            which = f"checkpoint {wanted[:64]}" if wanted else "checkpoint yet"
            message = f"job {job_id} has no {which}; perstackctl job checkpoints {job_id} lists them"
            raise PerstackError(Kind.NOT_FOUND, "checkpoint_not_found", message)
        return created, checkpoint

    async def _checkpoints(self, job_id: JobId) -> AsyncGenerator[Checkpoint, None]:
        """Page by page: a log may be larger than what should be in memory at once."""
        fold, seq = JobFold(), 0
        while stored := await self._store.read(job_id, seq, _PAGE):
            for each in stored:
                if found := fold.add(each.event):
                    yield found
            seq = stored[-1].event.seq

    async def _resolved(self, digest: str, expert_key: str) -> ResolvedRequest:
        toml = (await self._store.blobs.get(digest)).decode()
        return await to_thread.run_sync(resolved, self._definitions, toml, "perstack.toml", expert_key)

    async def _record(self, job_id: JobId, tenant: TenantId | None = None) -> JobRecord:
        record = await self._store.jobs.get(job_id) if is_id(job_id) else None
        if record is None or (tenant is not None and record.tenant != tenant):
            message = f"there is no job {job_id[:64]!r}; perstackctl job ls lists them"
            raise PerstackError(Kind.NOT_FOUND, "job_not_found", message)
        return record


def line_of(found: Checkpoint) -> CheckpointLine:
    """A checkpoint as a list shows it."""
    return CheckpointLine(
        found.seq,
        found.run_id,
        found.parent_run_id,
        found.expert_key,
        found.step,
        found.timestamp,
        found.outcome,
        len(found.state.messages),
        len(found.pending),
        found.state.usage,
    )


def _request(
    request: JobRequest, record: JobRecord, created: JobCreated, checkpoint: Checkpoint, toml: str
) -> JobRequest:
    """The caller's request with what it leaves to the parent: definition, expert, model, limits, hosts, workspace."""
    parent = request.parent
    same = parent is not None and parent.same_workspace
    asked = request.model
    return replace(
        request,
        toml=toml,
        source="perstack.toml",
        expert_key=checkpoint.expert_key,
        workspace=record.workspace if same else request.workspace,
        allow_domains=tuple(dict.fromkeys((*created.allow_domains, *request.allow_domains))),
        budgets=request.budgets.over(created.budgets),
        model=ModelChoice(asked.provider or created.asked_provider, asked.model or created.asked_model),
    )
