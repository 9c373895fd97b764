"""Jobs: accepted, carried out, cancelled, watched. Owns the task of every running job.

Above it are the servicers; below are the store, the definitions, the workers. Shutdown order: no new jobs, running
ones finish within the drain's bound, the rest are let go for the next start.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self, cast

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from perstackd.app.begun_run import BegunRun
from perstackd.app.checkpoints import Checkpoints
from perstackd.app.feed import Batch, Feed
from perstackd.app.job_birth import Birth, opened_first
from perstackd.app.job_context import JobDefaults, created_event, job_context, new_record
from perstackd.app.job_log import JOB, Entry, JobLog, numbered
from perstackd.app.job_recovery import (
    Archives,
    check_workspace,
    events_of,
    recovered,
    sealed_env,
    unfinished,
    write_off,
)
from perstackd.app.job_request import Admission, JobRequest, ResolvedRequest, check
from perstackd.app.job_worker import JobTask, JobWorker
from perstackd.app.known_definitions import KnownDefinitions
from perstackd.app.people import answer_text, closed_question
from perstackd.app.run_context import JobContext, RunServices
from perstackd.app.standing import OpenQuestion
from perstackd.app.store_trouble import StoreTrouble
from perstackd.app.unforeseen import unforeseen
from perstackd.app.workspace_holds import WorkspaceHolds
from perstackd.domain.assignment import chosen_model, expert_model
from perstackd.domain.commands import Cancel
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.expert import Finding, ModelChoice
from perstackd.domain.ids import JobId, RunId, SandboxId, TenantId, is_id
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.messages import ToolSpec
from perstackd.domain.run_record import RunRecord, run_records
from perstackd.ports.answer_schemas import AnswerSchemas
from perstackd.ports.definitions import Definitions
from perstackd.ports.egress import EgressAccess
from perstackd.ports.event_store import Store
from perstackd.ports.secrets import Sealer


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
        schemas: AnswerSchemas,
    ) -> None:
        self._store = store
        self._feed = feed
        self._services = services
        self._known = KnownDefinitions(definitions, defaults.templates, defaults.template, services.reach)
        self._sealer = sealer
        self.defaults = defaults
        self._schemas = schemas
        self._admission = Admission(
            defaults.model,
            defaults.tiers,
            check_provider,
            services.price,
            defaults.templates,
            defaults.skills_template,
            services.secrets.granted,
            services.reach,
        )
        self.checkpoints = Checkpoints(store, definitions, defaults.templates)
        self.holds = WorkspaceHolds()
        self._workers: dict[JobId, JobWorker] = {}
        self._births: dict[JobId, Birth] = {}
        self.trouble = StoreTrouble(defaults.store_patience_s)
        self.draining = False
        self._one_ended = anyio.Event()
        self._tasks: TaskGroup = anyio.create_task_group()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._services.egress.subscribe(self._saw)
        await self._stack.enter_async_context(self._tasks)
        await self._take_up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._stop_all()
        return await self._stack.__aexit__(kind, error, trace)

    async def resolve(self, toml: str, source: str, expert_key: str) -> ResolvedRequest:
        """As `KnownDefinitions.resolve`."""
        return await self._known.resolve(toml, source, expert_key)

    # --- commands ---------------------------------------------------------------------------------------------------
    async def create(self, request: JobRequest) -> tuple[JobRecord, tuple[Finding, ...]]:
        """Accept a job, durable on return, and begin it. A repeated request gets the first job again, also one that
        would be refused now; the store tells, so that a new request does not pay for the question.

        Raises:
            PerstackError: as `check` and `WorkspaceHolds.admit` do; UNAVAILABLE `draining`, `store_unavailable`;
                EXHAUSTED `too_many_jobs`; ALREADY_EXISTS `idempotency_key_used` by another request.
        """
        try:
            if request.parent is None:
                return await self._create(request)
            async with self.checkpoints.writing:
                return await self._create(request)
        except PerstackError:
            if repeated := await self._repeated(request):
                return repeated, ()
            raise

    async def _create(self, asked: JobRequest) -> tuple[JobRecord, tuple[Finding, ...]]:
        self._admit(asked)
        branch = await self.checkpoints.branch(asked)
        request = branch.request if branch else asked
        found = await self.resolve(request.toml, request.source, request.expert_key)
        check(request, found, self._admission)
        digest = await self._services.blobs.put(request.toml.encode())
        clock = self._services.clock
        job_id = JobId(clock.new_id())
        record = new_record(request, found, self.defaults, job_id=job_id, now=clock.now_ms(), digest=digest)
        created = created_event(request, found, self.defaults, record)
        entries: Sequence[Entry] = [(JOB, created)]
        begun: tuple[BegunRun, ...] = ()
        if branch is not None:
            created, record = branch.created(created), replace(branch.record(record), request_digest=asked.digest)
            entries, begun = branch.begin(created, RunId(clock.new_id()))
        events = numbered(record, entries, clock)
        record = replace(record, last_seq=len(events))
        replay = branch.replay if branch is not None else None
        context = job_context(created, found, self.defaults, self._log(record), request.env, replay=replay)
        birth = Birth(record, events, sealed_env(self._sealer, request.env, record.id))
        async with opened_first(self._services.workspaces, record, request.workspace):
            self._admit(request)  # others were admitted, or the drain began, while this one was looked at
            self._births[job_id] = birth
            self._begin(context, JobTask(found.experts, request.query, request.workspace, begun), birth)
        await birth.over.wait()
        if birth.error is not None:
            raise birth.error
        return record, found.findings

    def _begin(self, context: JobContext, task: JobTask, birth: Birth | None) -> None:
        ending = partial(self.holds.give_back, context.job_id)
        worker = JobWorker(self._services, context, task, self._feed, ending)
        self._services.scrubbing.watch(context.scrubber)
        self._workers[context.job_id] = worker
        self.holds.take(context.job_id, context.tenant, task.workspace)
        self._tasks.start_soon(self._work, worker, birth)

    def _log(self, record: JobRecord) -> JobLog:
        return JobLog(record, self._store, self._feed, self._services.clock, self.trouble)

    async def cancel(self, job_id: JobId, reason: str) -> JobRecord:
        """Ask a job to end; its end follows in its log. Idempotent. Raises PerstackError NOT_FOUND `job_not_found`."""
        record = await self.get(job_id)
        worker = self._workers.get(job_id)
        if worker and not record.state.final:
            worker.stop(Cancel(reason[:1024]))
        return record

    async def questions(self, job_id: JobId) -> tuple[OpenQuestion, ...]:
        """What the job's runs wait for a person to say, oldest first. Raises PerstackError NOT_FOUND
        `job_not_found`.
        """
        await self.get(job_id)
        worker = self._workers.get(job_id)
        return worker.context.standing.questions if worker else ()

    async def answer(self, job_id: JobId, question_id: str, action: str, content: bytes) -> OpenQuestion:
        """Answer an open question, durable on return. The same answer to one that is closed by it changes nothing.

        Raises:
            PerstackError: NOT_FOUND `job_not_found`, `question_not_found`; INVALID `answer_invalid`; PRECONDITION
                `question_closed`; UNAVAILABLE `run_busy`.
        """
        await self.get(job_id)
        worker = self._workers.get(job_id)
        opened = worker.context.standing.questions if worker else ()
        asked = next((each for each in opened if each.id == question_id), None)
        if worker is None or asked is None:
            return closed_question(await events_of(self._store, job_id), job_id, question_id, action, content)
        # In a thread: the first answer loads the validator.
        text = await to_thread.run_sync(answer_text, asked.question, action, content, self._schemas)
        answered = await worker.answer(question_id, action, text)
        return answered or closed_question(await events_of(self._store, job_id), job_id, question_id, action, content)

    async def pause(self, job_id: JobId) -> JobRecord:
        """The job's runs finish the step in hand and start no other. Idempotent. Raises PerstackError NOT_FOUND
        `job_not_found`; PRECONDITION `job_ended`.
        """
        await (await self._going_on(job_id)).pause()
        return await self.get(job_id)

    async def resume(self, job_id: JobId) -> JobRecord:
        """The job's runs go on. Idempotent. Raises as `pause` does."""
        await (await self._going_on(job_id)).resume()
        return await self.get(job_id)

    async def _going_on(self, job_id: JobId) -> JobWorker:
        record, worker = await self.get(job_id), self._workers.get(job_id)
        if worker is not None:
            return worker
        message = f"job {job_id} has ended ({record.state}); only a job that goes on can be paused or resumed"
        raise PerstackError(Kind.PRECONDITION, "job_ended", message)

    async def drain(self, seconds: float) -> None:
        """Take no new jobs and wait for the running ones, at most `seconds`."""
        self.draining = True
        with anyio.move_on_after(seconds):
            while self._workers:
                await self._one_ended.wait()

    async def stop(self, seconds: float) -> None:
        """Take no new jobs, let go of the running ones, and wait until they have given back what they hold, at most
        `seconds`.
        """
        self._stop_all()
        await self.drain(seconds)

    def _stop_all(self) -> None:
        """Jobs that are not done are left as they are: the next start takes them up."""
        self.draining = True
        for worker in self._workers.values():
            worker.stop(None)
        self.trouble.close()

    # --- questions --------------------------------------------------------------------------------------------------
    async def get(self, job_id: JobId) -> JobRecord:
        """Raises PerstackError NOT_FOUND `job_not_found`."""
        if worker := self._workers.get(job_id):
            return worker.context.log.record
        record = await self._store.jobs.get(job_id) if is_id(job_id) else None
        if record is None:
            message = f"there is no job {job_id[:64]!r}; perstackctl job ls lists them"
            raise PerstackError(Kind.NOT_FOUND, "job_not_found", message)
        return record

    async def page(
        self, tenant: TenantId | None, states: Sequence[JobState], before: JobId | None, limit: int
    ) -> tuple[JobRecord, ...]:
        """Records newest first."""
        return await self._store.jobs.page(tenant, states, before, limit)

    def queue(self, job_id: JobId) -> tuple[int, str] | None:
        """A waiting job's place (1 is next, 0 when it waits for the store) and why it waits."""
        worker = self._workers.get(job_id)
        return worker.waits if worker else None

    async def runs(self, job_id: JobId) -> tuple[RunRecord, ...]:
        """The runs of a job in order of their start, folded from its log. Raises PerstackError NOT_FOUND
        `job_not_found`.
        """
        await self.get(job_id)
        return run_records(await events_of(self._store, job_id))

    def model_of(self, found: ResolvedRequest) -> ModelChoice:
        """Who answers the first of the experts."""
        defaults, file = self.defaults, found.definition.model
        if not found.experts:
            return chosen_model(file, defaults.model)
        return expert_model(ModelChoice(), found.experts[0], file, defaults.model, defaults.tiers)

    @property
    def base_tools(self) -> tuple[ToolSpec, ...]:
        """The built-in tools, before an expert narrows them."""
        return self._services.base_tools

    async def findings(self, toml: str, source: str) -> tuple[Finding, ...]:
        """All that is to say about a definition, also about one that cannot be used. In a thread, as `resolve`."""
        return (await to_thread.run_sync(self._known.definitions.parse, toml, source)).findings

    def counts(self) -> tuple[int, int]:
        """Running and waiting jobs."""
        waiting = sum(self.queue(job_id) is not None for job_id in self._workers)
        return len(self._workers) - waiting, waiting

    def oldest_live(self) -> int | None:
        """When the oldest job that goes on was created, in milliseconds since the epoch."""
        return min((worker.context.created_at for worker in self._workers.values()), default=None)

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
    def _admit(self, request: JobRequest) -> None:
        self.holds.admit(request.tenant, request.workspace)
        if self.draining:
            message = "perstackd is stopping; try again when it is up"
            raise PerstackError(Kind.UNAVAILABLE, "draining", message, retryable=True)
        if len(self._workers) >= (limit := self.defaults.max_running):
            message = f"{len(self._workers)} jobs are running or waiting, the limit is {limit}; try again later"
            raise PerstackError(Kind.EXHAUSTED, "too_many_jobs", message, retryable=True)

    async def _repeated(self, request: JobRequest) -> JobRecord | None:
        if not request.idempotency_key:
            return None
        for birth in [each for each in self._births.values() if each.is_of(request.tenant, request.idempotency_key)]:
            await birth.over.wait()  # the first one's caller may have hung up while it is being written
        record = await self._store.jobs.by_key(request.tenant, request.idempotency_key)
        if record is None or record.request_digest == request.digest:
            return record
        message = f"the idempotency key was used for another request, job {record.id}; choose another key"
        raise PerstackError(Kind.ALREADY_EXISTS, "idempotency_key_used", message, fields={"job_id": record.id})

    async def _work(self, worker: JobWorker, birth: Birth | None) -> None:
        """The job from its first event to its last, in a task of its own: a caller that hangs up in the middle of
        CreateJob must not leave a stored job that nobody carries out. One job's error never reaches the others.
        """
        job_id = worker.context.job_id
        try:
            await worker.run(worker.go_on if birth is None else partial(self._stored, birth))
        except Exception as error:
            unforeseen(self._services.clock, error, job_id=job_id)
        finally:
            self._feed.close(job_id)
            self._workers.pop(job_id, None)
            self.holds.give_back(job_id)
            self._one_ended.set()
            self._one_ended = anyio.Event()

    async def _stored(self, birth: Birth) -> bool:
        """Whether there is a job now. One that was refused holds nothing any more when its caller hears of it."""
        try:
            return await birth.write(self._store, self._feed, self._services.clock)
        finally:
            del self._births[birth.record.id]
            if birth.error is not None:
                self._workers.pop(birth.record.id, None)
                self.holds.give_back(birth.record.id)
            birth.over.set()

    def _saw(self, access: EgressAccess) -> None:
        any(worker.saw(access) for worker in self._workers.values())

    async def _take_up(self) -> None:
        """Jobs that an earlier process did not end go on; one that cannot gets its end, with the reason."""
        returns, clock = self._services.pool.returns, self._services.clock
        archives = Archives(self._store, self._known.definitions, self._sealer, clock, returns.claimed, returns.ids)
        kept: set[SandboxId] = set()
        records = await unfinished(self._store)
        there = await self._services.workspaces.settle([record.id for record in records])
        for record in records:
            try:
                found = await recovered(archives, self.defaults, self._log(record))
                if not found.ended:
                    check_workspace(record, there)
                self._feed.open(record.id)  # before anybody can watch it
                self._begin(found.context, found.task, None)
                kept |= found.sandboxes
            except PerstackError as error:
                await write_off(archives, record, error)
            except Exception as error:
                message = unforeseen(clock, error, job_id=record.id).message
                await write_off(archives, record, PerstackError(Kind.INTERNAL, "internal", message))
        returns.keep(kept)
