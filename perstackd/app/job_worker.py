"""Carries out one job: opens its workspace, runs its coordinator and the children that are delegated to, writes its
end.

Above it is `Jobs`, which owns its task; below are the run workers. Shutdown order: runs (each gives its sandbox
back), the workspace, the log's last event, the feed.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias, assert_never

import anyio
import anyio.lowlevel
import structlog
from anyio.abc import TaskGroup

from perstackd.app.begun_run import BegunRun
from perstackd.app.errors import single_errors
from perstackd.app.feed import Feed
from perstackd.app.job_log import JOB, Entry
from perstackd.app.replayed_run import run_worker
from perstackd.app.run_context import JobContext, RunPlan, RunServices
from perstackd.app.run_party import RunParty
from perstackd.app.run_tasks import Release, RunHost
from perstackd.app.run_worker import RunWorker
from perstackd.app.standing import OpenQuestion
from perstackd.app.unforeseen import unforeseen
from perstackd.app.wall_clock import spent
from perstackd.domain.budget import reached
from perstackd.domain.commands import Answer, Cancel, Exhaust, Fail, Generate, Stop
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import (
    DelegateCall,
    JobFinished,
    JobPaused,
    JobQueued,
    JobResumed,
    Origin,
    SandboxReleased,
)
from perstackd.domain.expert import Expert
from perstackd.domain.ids import RunId, SandboxId
from perstackd.domain.job import EXIT_CODES, JobState
from perstackd.domain.messages import TextPart, ToolResultPart
from perstackd.domain.questions import checked_action
from perstackd.domain.run_state import Outcome, RunEnd
from perstackd.domain.tool_calls import error_result
from perstackd.domain.workspace import WorkspaceSpec
from perstackd.ports.egress import EgressAccess

_log = structlog.get_logger()
_STATES = {
    Outcome.COMPLETED: JobState.COMPLETED,
    Outcome.FAILED: JobState.FAILED,
    Outcome.STOPPED: JobState.STOPPED,
    Outcome.CANCELLED: JobState.CANCELLED,
}


Begin: TypeAlias = Callable[[], Awaitable[bool]]
END_DELAYS: Final = (0.2, 1.0, 3.0)
"""Seconds between tries to write a job's end: a full disk may have room again."""


@dataclass(frozen=True, slots=True)
class JobTask:
    """What is to be done: the coordinator and all that it can reach, the query, the place; the runs that an earlier
    process began, the ends of sandboxes that it did not tell of, and those that may come back, with whose they are.
    """

    experts: tuple[Expert, ...]
    query: str
    workspace: WorkspaceSpec
    begun: tuple[BegunRun, ...] = ()
    gone: tuple[Entry, ...] = ()
    coming: Mapping[SandboxId, Origin] = field(default_factory=dict)


class JobWorker:
    """One job. `run` is called once; `ending` is called before its end is written."""

    def __init__(
        self,
        services: RunServices,
        context: JobContext,
        task: JobTask,
        feed: Feed,
        ending: Callable[[], None],
    ) -> None:
        self.context = context
        self.queue: tuple[int, str] | None = None
        self.runs: dict[RunId, RunWorker] = {}
        self._services = services
        self._experts = {expert.key: expert for expert in task.experts}
        self._begun = {(run.parent_run_id, run.call_id): run for run in task.begun}
        self._coordinator = self._plan(RunId(""), "", task.experts[0], task.query)
        self._workspace = task.workspace
        self._gone = task.gone
        self._coming = task.coming
        self._feed = feed
        self._ending = ending
        self._scope = anyio.CancelScope()
        self._queued = anyio.Event()
        self._releases: TaskGroup | None = None
        self._leaving: list[RunParty] = []
        self._last: list[Entry] | None = None
        self._unborn = False

    def stop(self, command: Stop | None) -> None:
        """End all runs with this order; None leaves them as they are, for the next process to take up. The first order
        counts, and one that comes while they are being left.
        """
        if not self._scope.cancel_called or self.context.stop.command is None:
            self.context.stop.command = command
        self._scope.cancel()

    async def run(self, begin: Begin) -> None:
        """Go on until the job's last event is in the log; when it cannot be written that is logged, and the next
        start of the daemon writes it. Raises nothing but cancellation, also then with the end written.

        `begin` writes what comes first, beside the opening of the workspace, and cannot be cancelled half-way; when it
        returns False there is no job, and nothing is done.
        """
        self._feed.open(self.context.job_id)
        end: RunEnd | None = None
        try:
            end = await self._guarded(begin)
        finally:
            end = end or self._outcome(None)
            if not self._unborn:
                with anyio.CancelScope(shield=True):
                    await self._finish(end)
            self._feed.close(self.context.job_id)

    async def go_on(self) -> bool:
        """The `begin` of a job that an earlier process began. Raises as JobLog.append does."""
        await self.context.log.append(self._gone)
        self._gone = ()
        return True

    async def _guarded(self, begin: Begin) -> RunEnd | None:
        """An error that nobody foresaw ends the job with a log id, and never the daemon. One that comes while the job
        is left to the next process does not end it: that one finds out by itself.
        """
        try:
            return await self._carry_out(begin)
        except PerstackError as error:
            end = RunEnd(Outcome.FAILED, "", error.reason, error.message)
        except Exception as error:
            told = unforeseen(self._services.clock, error, job_id=self.context.job_id)
            end = RunEnd(Outcome.FAILED, "", "internal", told.message)
        return None if self.context.stop.command is None else end

    async def _carry_out(self, begin: Begin) -> RunEnd | None:
        workspaces, job_id = self._services.workspaces, self.context.job_id
        end: RunEnd | None = None
        try:
            async with single_errors(), anyio.create_task_group() as releases:
                self._releases = releases
                try:
                    with self._scope:
                        if await self._open(begin):
                            end = await self._coordinate()
                finally:
                    self._last = []
        finally:
            if self._unborn or self._outcome(end) is not None:  # else its files wait for who takes the job up
                with anyio.CancelScope(shield=True):
                    await workspaces.close(job_id)
        return self._outcome(end)

    async def _open(self, begin: Begin) -> bool:
        """Whether there is a job. Its workspace is open then. Raises as Workspaces.open and `begin` do."""
        async with single_errors(), anyio.create_task_group() as opening:
            opening.start_soon(
                self._services.workspaces.open, self.context.job_id, self.context.tenant, self._workspace
            )
            self._unborn = not await begin()
            if self._unborn:
                opening.cancel_scope.cancel()
        await anyio.lowlevel.checkpoint_if_cancelled()  # `begin` took no notice of it, the opening did
        return not self._unborn

    def _outcome(self, end: RunEnd | None) -> RunEnd | None:
        """The coordinator's end as its log tells it, also when the job was stopped a moment later; else the order; None
        when it is to be taken up again.
        """
        coordinator = self.runs.get(self._coordinator.run_id)
        told = coordinator.state.end if coordinator else None
        command = self.context.stop.command
        return end or told or (_end_of(command) if command is not None else None)

    async def _coordinate(self) -> RunEnd:
        async with single_errors(), anyio.create_task_group() as tasks:
            tasks.start_soon(self._announce)
            tasks.start_soon(self._keep_time)
            end = await self._run(self._coordinator, self._wait)
            tasks.cancel_scope.cancel()
        return end

    async def _keep_time(self) -> None:
        """End the job when its wall clock has run out; pauses and waits for people do not count."""
        limit = self.context.log.record.budgets.wall_clock_ms
        if limit:
            await spent(limit, self.context)
            self.stop(Exhaust("wallClock", limit))

    def _plan(self, parent: RunId, call_id: str, expert: Expert, query: str, depth: int = 0) -> RunPlan:
        begun = self._begun.get((parent, call_id))
        if begun is None:
            return RunPlan(RunId(self._services.clock.new_id()), expert, query, depth, parent, call_id)
        return RunPlan(begun.run_id, expert, query, depth, parent, call_id, begun.fence, begun.sandboxes)

    async def _run(self, plan: RunPlan, waiting: Callable[[int, str], None]) -> RunEnd:
        begun = self._begun.pop((plan.parent_run_id, plan.call_id), None)
        if begun is not None and begun.state.end is not None:
            return begun.state.end
        host = RunHost(self._delegate, waiting, self._later)
        worker = run_worker(self._services, self.context, plan, host, begun.state if begun else None)
        self.runs[plan.run_id] = worker
        try:
            return await worker.run()
        finally:
            if plan.depth:  # an ended child's history is in the log; the coordinator's end is asked for
                del self.runs[plan.run_id]

    def _later(self, party: RunParty, release: Release) -> None:
        """A run's sandboxes go back while others go on already; the workspace is closed and the job ends after it."""
        if self._releases is None:
            raise RuntimeError("a run ended outside its job")
        self._leaving.append(party)
        self._releases.start_soon(self._give_back, party, release)

    async def _give_back(self, party: RunParty, release: Release) -> None:
        try:
            await self._tell(await release())
        finally:
            self._leaving.remove(party)

    async def _tell(self, entries: Sequence[Entry]) -> None:
        """Write how sandboxes ended, together with the job's end where that is next: one wait for the disk less."""
        if self._last is not None:
            self._last += entries
            return
        try:
            with anyio.CancelScope(shield=True):
                await self.context.log.append(entries)
        except PerstackError as error:
            _log.error("sandboxes' ends are not in the log", job_id=self.context.job_id, reason=error.reason)

    def saw(self, access: EgressAccess) -> bool:
        """A sandbox tried to connect somewhere. Returns whether it is one of this job's."""
        for run in self.runs.values():
            if run.holds(access.sandbox_id):
                run.inbox.saw(access)
                return True
        party = next((party for party in self._leaving if party.holds(access.sandbox_id)), None)
        if party is not None:
            party.saw(access)
        return party is not None

    async def _delegate(self, parent: RunPlan, call: DelegateCall) -> ToolResultPart:
        """A child's end as its parent's tool result: whatever went wrong is an error result with the true cause."""
        expert = self._experts[call.expert_key]
        plan = self._plan(parent.run_id, call.call_id, expert, call.query, parent.depth + 1)
        end = await self._run(plan, _ignore)
        if end.outcome is Outcome.COMPLETED:
            return ToolResultPart(call.call_id, (TextPart(end.text),))
        return error_result(call.call_id, end.reason, f"the delegate {call.expert_key} did not finish: {end.message}")

    @property
    def waits(self) -> tuple[int, str] | None:
        """Its place among those that wait for a sandbox, 0 when it waits for the store, and why."""
        if self.context.log.trouble.why:
            return 0, self.context.log.trouble.why
        return None if any(run.claimed for run in self.runs.values()) else self.queue

    # --- people -----------------------------------------------------------------------------------------------------
    async def answer(self, question_id: str, action: str, content: str) -> OpenQuestion | None:
        """Answer an open question, durable on return; None when it was closed in the meantime.

        Raises:
            PerstackError: INVALID `answer_invalid`; as RunInbox.tell does.
        """
        asked = next((each for each in self.context.standing.questions if each.id == question_id), None)
        run = self.runs.get(asked.run_id) if asked is not None else None
        if asked is None or run is None:
            return None
        checked_action(asked.question, action, content)
        return asked if await run.inbox.tell(Answer(asked.question.id, action, content)) else None

    async def pause(self) -> None:
        """The runs finish the step in hand and start no other. Idempotent."""
        if not self.context.log.record.paused:
            await self.context.log.append([(JOB, JobPaused())], lambda record: replace(record, paused=True))

    async def resume(self) -> None:
        """The runs go on, those that still wait for a sandbox once they have it. Idempotent: each run is told again,
        should it not have heard. Raises as RunInbox.post does.
        """
        if self.context.log.record.paused:
            await self.context.log.append([(JOB, JobResumed())], lambda record: replace(record, paused=False))
        async with single_errors(), anyio.create_task_group() as telling:
            for run in list(self.runs.values()):
                telling.start_soon(run.inbox.post, Generate())

    # --- waiting ----------------------------------------------------------------------------------------------------
    def _wait(self, place: int, reason: str) -> None:
        self.queue = (place, reason)
        self._queued.set()

    async def _announce(self) -> None:
        """One event when the job has to wait; the place in hand is in `queue`."""
        await self._queued.wait()
        if self.queue:
            place, reason = self.queue
            await self.context.log.append([(JOB, JobQueued(place, reason))])

    # --- the end ----------------------------------------------------------------------------------------------------
    async def _finish(self, end: RunEnd | None) -> None:
        """Write what is left: the job's end, unless another process takes it up."""
        for delay in (*END_DELAYS, None):
            try:
                await self._write_end(end)
            except PerstackError as error:
                if delay is not None and error.kind is Kind.UNAVAILABLE:
                    await anyio.sleep(delay)
                    continue
                _log.error("the end of a job could not be written", job_id=self.context.job_id, reason=error.reason)
            except Exception as error:
                unforeseen(self._services.clock, error, job_id=self.context.job_id)
            return

    async def _write_end(self, end: RunEnd | None) -> None:
        last = self._last or ()
        if end is None:  # what was not written before is told by the next process
            await self.context.log.append(last)
            return
        self._ending()
        state = _STATES[end.outcome]
        now = self.context.log.now_ms()
        event = JobFinished(state.value, EXIT_CODES[state], end.text, end.reason, end.message)
        await self.context.log.append(
            [*self._gone, *last, *self._unclaimed(), (JOB, event)],
            lambda record: record.finished(state, now, answer=end.text, reason=end.reason, message=end.message),
        )

    def _unclaimed(self) -> list[Entry]:
        """The ends of sandboxes that came back to runs which nobody waited for any more."""
        left = {held.sandbox_id for run in self._begun.values() for held in run.sandboxes.held}
        self._services.pool.returns.give_up(left)
        why = "the job ended before its run went on"
        return [(self._coming[each], SandboxReleased(each, "cancelled", why)) for each in self._coming if each in left]


def _ignore(_place: int, _reason: str) -> None:
    """A child's wait is not the job's: it goes before all new jobs."""


def _end_of(order: Stop) -> RunEnd:
    match order:
        case Cancel(message=message):
            return RunEnd(Outcome.CANCELLED, "", "cancelled", message or "cancelled by the caller")
        case Fail(reason=reason, message=message):
            return RunEnd(Outcome.FAILED, "", reason, message)
        case Exhaust(budget=budget, limit=limit):
            return RunEnd(Outcome.STOPPED, "", f"budget_{budget}", reached(budget, limit))
        case _:
            assert_never(order)
