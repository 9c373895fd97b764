"""A run of a job that does another job again.

With live tools it is a run like any other, but for its model and the people that it asks, who are the record's. With a
live model it has no sandbox: what its calls come to is the record's too.
"""

from collections.abc import Iterable
from dataclasses import replace

import anyio.lowlevel

from perstackd.app.job_log import JOB, running
from perstackd.app.reenacting import RecordedWave, ReplayOpening, ReplayTasks, not_recorded, unpaid
from perstackd.app.run_context import JobContext, RunPlan, RunServices
from perstackd.app.run_inbox import Finished
from perstackd.app.run_tasks import RunHost
from perstackd.app.run_worker import RunWorker
from perstackd.domain.commands import Answer, Generate
from perstackd.domain.events import (
    ApprovalRequested,
    CallInteractiveTool,
    DelegateCall,
    ElicitationRequested,
    JobAdmitted,
    Question,
    RunPayload,
)
from perstackd.domain.job import JobState
from perstackd.domain.messages import ToolResultPart
from perstackd.domain.reenactment import Reenactment, ReplayMode
from perstackd.domain.run_state import Phase, RunState


def run_worker(
    services: RunServices, context: JobContext, plan: RunPlan, host: RunHost, state: RunState | None
) -> RunWorker:
    """What carries out a run of the job."""
    if context.replay is None:
        return RunWorker(services, context, plan, host, state)
    return ReplayedRun(services, context, plan, host, state, stage=context.replay)


class ReplayedRun(RunWorker):
    """One run of a replay."""

    def __init__(
        self,
        services: RunServices,
        context: JobContext,
        plan: RunPlan,
        host: RunHost,
        state: RunState | None = None,
        *,
        stage: Reenactment,
    ) -> None:
        live_tools = stage.mode is ReplayMode.TOOLS
        services = unpaid(services) if live_tools else services
        super().__init__(services, context, plan, replace(host, delegate=self._delegate), state)
        self._stage = stage
        self._children = host.delegate
        self._opening = ReplayOpening(services, context, plan)
        self._tasks = ReplayTasks(services, context, plan, self.inbox, lambda: self.state, stage=stage)
        if not live_tools:
            self._wave = RecordedWave(self._own, self.state)

    async def _live(self) -> None:
        self._answer_all(self.state.questions)
        if self._stage.mode is ReplayMode.TOOLS:
            await super()._live()
            return
        self._ledger.tell()
        await self._admit()
        await self._begin()
        while self.state.end is None:
            if self.inbox.empty:
                await anyio.lowlevel.checkpoint()
            if self.inbox.empty:
                await self._ledger.flush()
            await self._take(await self.inbox.next())

    async def _admit(self) -> None:
        """Nothing is waited for: no sandbox is claimed."""
        if self.plan.depth == 0 and self._context.log.record.state is JobState.QUEUED:
            await self._context.log.append([(JOB, JobAdmitted())], running)

    async def _begin(self) -> None:
        """Begin, or go on where the daemon before this one left it."""
        match self.state.phase:
            case Phase.INIT:
                await self._carry_out(self._opening.begin(self.state.start))
            case Phase.CALLING:
                self._tasks.look_up(self._wave.start(self.state, None))
            case Phase.PREPARING:
                await self._carry_out(Generate())
            case _:
                self._revive()

    async def _follow(self, before: RunState, fact: RunPayload) -> None:
        self._stage.saw(self.plan.origin(before.step), fact)
        await super()._follow(before, fact)
        match fact:
            case CallInteractiveTool(questions=questions):
                self._answer_all(questions)
            case ApprovalRequested(question=question) | ElicitationRequested(question=question):
                self._answer_all((question,))
            case _:
                pass

    def _answer_all(self, questions: Iterable[Question]) -> None:
        if asked := tuple(questions):
            self._tasks.group.start_soon(self._answer, asked)

    async def _answer(self, questions: Iterable[Question]) -> None:
        for question in questions:
            given = self._stage.answer(self.plan.run_id, question)
            await self.inbox.put(Finished(Answer(question.id, given.action, given.content)))

    async def _delegate(self, parent: RunPlan, call: DelegateCall) -> ToolResultPart:
        """With a live model a child that the record does not know has nothing that could answer its calls."""
        if self._stage.mode is ReplayMode.TOOLS or self._stage.knows_delegation(parent.run_id, call.call_id):
            return await self._children(parent, call)
        return not_recorded(self._stage, call.call_id, f"delegation to {call.expert_key!r} with this query")
