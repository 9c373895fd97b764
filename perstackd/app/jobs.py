"""Jobs: accepted, carried out, cancelled, watched. Owns the task of every running job.

Above it are the servicers; below are the store, the definitions, the workers. Shutdown order: no new jobs, running ones
finish within the drain's bound, the rest are stopped and recorded, then the task group ends.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Final, Self, cast

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from perstackd.app.feed import Batch, Feed
from perstackd.app.job_log import JOB, Entry, JobLog, numbered
from perstackd.app.job_request import JobRequest, ResolvedRequest, check, resolved
from perstackd.app.job_worker import JobTask, JobWorker
from perstackd.app.run_context import JobContext, RunLimits, RunServices, StopOrder
from perstackd.app.unforeseen import unforeseen
from perstackd.domain.assignment import chosen_model
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import Event, JobCreated, JobFinished, StopRunByError
from perstackd.domain.expert import Finding, ModelChoice, Severity
from perstackd.domain.ids import JobId, TenantId, is_id
from perstackd.domain.job import EXIT_CODES, JobRecord, JobState
from perstackd.domain.run import Cancel, Fail
from perstackd.domain.run_record import RunRecord, run_records
from perstackd.ports.definitions import Definitions
from perstackd.ports.egress import EgressAccess
from perstackd.ports.event_store import Store
from perstackd.ports.secrets import Sealer

_PAGE: Final = 500
REMEMBERED: Final = 1 << 20  # characters of definitions


@dataclass(frozen=True, slots=True)
class JobDefaults:
    """Operator's choices for jobs that do not say."""

    template: str = "base"
    templates: frozenset[str] = frozenset({"base"})
    model: ModelChoice = ModelChoice("anthropic", "", "low")
    max_steps: int = 100
    max_running: int = 200
    limits: RunLimits = field(default_factory=RunLimits)


@dataclass(slots=True)
class _Birth:
    """A job on its way into the store, and what came of it."""

    record: JobRecord
    events: tuple[Event, ...]
    sealed: bytes
    over: anyio.Event = field(default_factory=anyio.Event)
    error: PerstackError | None = None


class Jobs:
    """An async context manager: jobs run while it is open."""

    def __init__(
        self,
        store: Store,
        feed: Feed,
        services: RunServices,
        *,
        definitions: Definitions,
        sealer: Sealer,
        defaults: JobDefaults,
        check_provider: Callable[[str], None],
    ) -> None:
        self._store = store
        self._feed = feed
        self._services = services
        self._definitions = definitions
        self._sealer = sealer
        self._defaults = defaults
        self._check_provider = check_provider
        self._workers: dict[JobId, JobWorker] = {}
        self._resolved: dict[tuple[str, str, str], ResolvedRequest] = {}
        self.draining = False
        self._one_ended = anyio.Event()
        self._tasks: TaskGroup = anyio.create_task_group()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._end_unfinished()
        self._services.egress.subscribe(self._saw)
        await self._stack.enter_async_context(self._tasks)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._stop_all()
        return await self._stack.__aexit__(kind, error, trace)

    # --- commands ---------------------------------------------------------------------------------------------------
    async def resolve(self, toml: str, source: str, expert_key: str) -> ResolvedRequest:
        """What a job of this definition needs. Raises as `job_request.resolved` does.

        Parsed in a thread: a large definition takes seconds, and the loop is everyone's. The last few are remembered,
        because `perstackctl run` asks for the same one twice.
        """
        wanted = (toml, source, expert_key)
        found = self._resolved.pop(wanted, None)
        if found is None:
            found = await to_thread.run_sync(resolved, self._definitions, *wanted)
            found = self._placed(found)
        self._resolved[wanted] = found
        while sum(len(known) for known, _, _ in self._resolved) > REMEMBERED:
            self._resolved.pop(next(iter(self._resolved)))
        return found

    def _placed(self, found: ResolvedRequest) -> ResolvedRequest:
        """With a warning when the file's `runtime` names no template of this daemon."""
        wanted, known = found.definition.template, self._defaults.templates
        if not wanted or wanted in known:
            return found
        have = ", ".join(sorted(known))
        used = self._defaults.template
        message = f"runtime {wanted!r} names no sandbox template of this daemon ({have}); {used!r} is used"
        return replace(found, findings=(*found.findings, Finding(Severity.WARNING, message, key="runtime")))

    async def create(self, request: JobRequest) -> tuple[JobRecord, tuple[Finding, ...]]:
        """Accept a job, durable on return, and begin it. A repeated request gets the first job again, also one that
        would be refused now; the store tells, so that a new request does not pay for the question.

        Raises:
            PerstackError: as `check` does; UNAVAILABLE `draining`; EXHAUSTED `too_many_jobs`; ALREADY_EXISTS
            `idempotency_key_used` when the
                key was used for another request; UNAVAILABLE `store_unavailable`.
        """
        try:
            return await self._create(request)
        except PerstackError:
            if repeated := await self._repeated(request):
                return repeated, ()
            raise

    async def _create(self, request: JobRequest) -> tuple[JobRecord, tuple[Finding, ...]]:
        self._admit()
        found = await self.resolve(request.toml, request.source, request.expert_key)
        check(request, found, self._defaults.model, self._check_provider)
        record = await self._record(request, found)
        context = self._context(request, found, record)
        created = _created(request, found, record)
        events = numbered(record, [(JOB, created)], self._services.clock)
        record = context.log.record = replace(record, last_seq=len(events))
        birth = _Birth(record, events, self._sealed(request, record))
        task = JobTask(found.experts, request.query, request.workspace)
        forget = partial(self._store.jobs.forget_env, record.id)
        worker = JobWorker(self._services, context, task, self._feed, forget)
        self._admit()  # others were admitted, or the drain began, while this one was looked at
        self._workers[record.id] = worker
        self._tasks.start_soon(self._work, worker, birth)
        await birth.over.wait()
        if birth.error is not None:
            raise birth.error
        return record, found.findings

    async def cancel(self, job_id: JobId, reason: str) -> JobRecord:
        """Ask a job to end; its end follows in its log. Idempotent. Raises PerstackError NOT_FOUND `job_not_found`."""
        record = await self.get(job_id)
        worker = self._workers.get(job_id)
        if worker and not record.state.final:
            worker.stop(Cancel(reason[:1024]))
        return record

    async def drain(self, seconds: float) -> None:
        """Take no new jobs and wait for the running ones, at most `seconds`."""
        self.draining = True
        with anyio.move_on_after(seconds):
            while self._workers:
                await self._one_ended.wait()

    async def stop(self, seconds: float) -> None:
        """Take no new jobs, end the running ones, and wait until their ends are in the log, at most `seconds`."""
        self._stop_all()
        await self.drain(seconds)

    def _stop_all(self) -> None:
        self.draining = True
        for worker in self._workers.values():
            worker.stop(Fail("daemon_stopped", "perstackd was stopped before the job was done; start the job again"))

    # --- questions --------------------------------------------------------------------------------------------------
    async def get(self, job_id: JobId) -> JobRecord:
        """Raises PerstackError NOT_FOUND `job_not_found`."""
        if worker := self._workers.get(job_id):
            return worker.context.log.record
        record = await self._store.jobs.get(job_id) if is_id(job_id) else None
        if record is None:
            raise PerstackError(
                Kind.NOT_FOUND, "job_not_found", f"there is no job {job_id[:64]!r}; perstackctl job ls lists them"
            )
        return record

    async def page(
        self, tenant: TenantId | None, states: Sequence[JobState], before: JobId | None, limit: int
    ) -> tuple[JobRecord, ...]:
        """Records newest first."""
        return await self._store.jobs.page(tenant, states, before, limit)

    def queue(self, job_id: JobId) -> tuple[int, str] | None:
        """A waiting job's place (1 is next) and why it waits."""
        worker = self._workers.get(job_id)
        return worker.queue if worker and not any(run.claimed for run in worker.runs.values()) else None

    async def runs(self, job_id: JobId) -> tuple[RunRecord, ...]:
        """The runs of a job in order of their start, folded from its log. Raises PerstackError NOT_FOUND
        `job_not_found`.
        """
        await self.get(job_id)
        return await self._runs(job_id)

    async def _runs(self, job_id: JobId) -> tuple[RunRecord, ...]:
        events: list[Event] = []
        while stored := await self._store.read(job_id, len(events), _PAGE):
            events.extend(each.event for each in stored)
        return run_records(events)

    def model_of(self, found: ResolvedRequest) -> ModelChoice:
        """Who answers the first of the experts."""
        own = found.experts[0].model if found.experts else ModelChoice()
        return chosen_model(own, found.definition.model, self._defaults.model)

    def counts(self) -> tuple[int, int]:
        """Running and waiting jobs."""
        waiting = sum(self.queue(job_id) is not None for job_id in self._workers)
        return len(self._workers) - waiting, waiting

    async def watch(self, job_id: JobId, after_seq: int, *, streaming: bool, follow: bool) -> AsyncIterator[Batch]:
        """As `Feed.watch`. Raises PerstackError NOT_FOUND `job_not_found`; INVALID `cursor_invalid` past the job's
        last event.
        """
        record = await self.get(job_id)
        if after_seq > record.last_seq:
            message = f"job {job_id} has {record.last_seq} events, none after {after_seq}; watch from an earlier one"
            raise PerstackError(Kind.INVALID, "cursor_invalid", message)
        batches = self._feed.watch(job_id, after_seq, streaming=streaming, follow=follow)
        async with aclosing(cast("AsyncGenerator[Batch, None]", batches)) as open_batches:
            async for batch in open_batches:
                yield batch

    # --- inside -----------------------------------------------------------------------------------------------------
    def _admit(self) -> None:
        if self.draining:
            raise PerstackError(
                Kind.UNAVAILABLE, "draining", "perstackd is stopping; try again when it is up", retryable=True
            )
        if len(self._workers) >= self._defaults.max_running:
            count, limit = len(self._workers), self._defaults.max_running
            message = f"{count} jobs are running or waiting, the limit is {limit}; try again later"
            raise PerstackError(Kind.EXHAUSTED, "too_many_jobs", message, retryable=True)

    async def _repeated(self, request: JobRequest) -> JobRecord | None:
        if not request.idempotency_key:
            return None
        record = await self._store.jobs.by_key(request.tenant, request.idempotency_key)
        if record is None or record.request_digest == request.digest:
            return record
        message = f"the idempotency key was used for another request, job {record.id}; choose another key"
        raise PerstackError(Kind.ALREADY_EXISTS, "idempotency_key_used", message, fields={"job_id": record.id})

    async def _record(self, request: JobRequest, found: ResolvedRequest) -> JobRecord:
        clock = self._services.clock
        model = chosen_model(request.model, found.experts[0].model, found.definition.model, self._defaults.model)
        return JobRecord(
            id=JobId(clock.new_id()),
            tenant=request.tenant,
            state=JobState.QUEUED,
            expert_key=found.experts[0].key,
            query=request.query,
            created_at=clock.now_ms(),
            workspace=request.workspace,
            provider=model.provider,
            model=model.model,
            definition_digest=await self._services.blobs.put(request.toml.encode()),
            idempotency_key=request.idempotency_key,
            request_digest=request.digest,
        )

    def _context(self, request: JobRequest, found: ResolvedRequest, record: JobRecord) -> JobContext:
        defaults, definition = self._defaults, found.definition
        max_steps = request.max_steps or definition.max_steps or defaults.max_steps
        template = definition.template if definition.template in defaults.templates else defaults.template
        return JobContext(
            job_id=record.id,
            tenant=record.tenant,
            created_at=record.created_at,
            definition=definition,
            template=template,
            model=request.model,
            default_model=defaults.model,
            read_only=request.workspace.read_only,
            env=dict(request.env),
            allow_domains=request.allow_domains,
            limits=defaults.limits,
            log=JobLog(record, max_steps, self._store, self._feed, self._services.clock),
            stop=StopOrder(),
        )

    def _sealed(self, request: JobRequest, record: JobRecord) -> bytes:
        if not request.env:
            return b""
        return self._sealer.seal(json.dumps(dict(request.env)).encode(), f"job:{record.id}")

    async def _work(self, worker: JobWorker, birth: "_Birth") -> None:
        """The job from its first event to its last, in a task of its own: a caller that hangs up in the middle of
        CreateJob must not leave a stored job that nobody carries out. One job's error never reaches the others.
        """
        job_id = worker.context.job_id
        try:
            if await self._stored(birth):
                await worker.run()
        except Exception as error:
            unforeseen(self._services.clock, error, job_id=job_id)
        finally:
            self._feed.close(job_id)
            self._workers.pop(job_id, None)
            self._one_ended.set()
            self._one_ended = anyio.Event()

    async def _stored(self, birth: "_Birth") -> bool:
        """Whether the job is in the store; a watcher that sees it there finds the feed open."""
        record = birth.record
        self._feed.open(record.id)
        try:
            with anyio.CancelScope(shield=True):
                stored = await self._store.create(record, birth.events, birth.sealed)
            self._feed.publish(record.id, stored)
        except PerstackError as error:
            birth.error = error
        except Exception as error:
            told = unforeseen(self._services.clock, error, job_id=record.id)
            birth.error = PerstackError(Kind.INTERNAL, "internal", told.message, fields={"log_id": told.log_id})
        finally:
            birth.over.set()
        return birth.error is None

    def _saw(self, access: EgressAccess) -> None:
        for worker in self._workers.values():
            for run in worker.runs.values():
                if run.sandbox_id == access.sandbox_id:
                    run.saw(access)
                    return

    async def _end_unfinished(self) -> None:
        """Jobs of an earlier process that have no end get one: their sandboxes are gone. Taking them up again
        follows later.
        """
        states = (JobState.QUEUED, JobState.RUNNING, JobState.WAITING)
        message = "perstackd was restarted before the job was done; start the job again"
        while records := await self._store.jobs.page(None, states, None, _PAGE):
            for record in records:
                stopped = StopRunByError("daemon_restarted", message)
                open_runs = [run for run in await self._runs(record.id) if not run.outcome]
                entries: list[Entry] = [(run.origin, stopped) for run in reversed(open_runs)]
                entries.append((JOB, JobFinished("failed", EXIT_CODES[JobState.FAILED], "", stopped.reason, message)))
                events = numbered(record, entries, self._services.clock)
                now = self._services.clock.now_ms()
                ended = record.finished(JobState.FAILED, now, reason=stopped.reason, message=message)
                await self._store.jobs.forget_env(record.id)
                await self._store.append(replace(ended, last_seq=events[-1].seq), events)


def _created(request: JobRequest, found: ResolvedRequest, record: JobRecord) -> JobCreated:
    return JobCreated(
        expert_key=record.expert_key,
        query=record.query,
        definition_digest=record.definition_digest,
        workspace=str(record.workspace),
        provider=record.provider,
        model=record.model,
        required_env=found.required_env,
        allow_domains=request.allow_domains,
    )
