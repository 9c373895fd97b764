"""What a run has others do at its side: model calls, look-ups, children, waits. Each ends in the run's inbox."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

from perstackd.app.archive import Archive
from perstackd.app.compaction import summarise
from perstackd.app.generation import generate
from perstackd.app.run_context import JobContext, RunPlan, RunServices
from perstackd.app.run_inbox import LookedUp, RunInbox
from perstackd.domain.commands import ChildrenAnswered, Generate, Park
from perstackd.domain.compaction import compaction_due
from perstackd.domain.events import DelegateCall
from perstackd.domain.messages import ToolCallPart, ToolResultPart
from perstackd.domain.run_state import Phase, RunState

Delegate: TypeAlias = Callable[[RunPlan, DelegateCall], Awaitable[ToolResultPart]]
State: TypeAlias = Callable[[], RunState]


@dataclass(frozen=True, slots=True)
class RunHost:
    """What a run asks of its job: to run a child, to be told its place while it waits, to give sandboxes back later."""

    delegate: Delegate
    waiting: Callable[[int, str], None]
    later: Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


class RunTasks:
    """Its tasks belong to `group`, which the run's worker enters and cancels at its end. One of a kind at a time."""

    def __init__(
        self, services: RunServices, context: JobContext, plan: RunPlan, inbox: RunInbox, state: State
    ) -> None:
        self.group: TaskGroup = anyio.create_task_group()
        self._services = services
        self._context = context
        self._plan = plan
        self._inbox = inbox
        self._state = state
        self._busy: dict[str, object] = {}
        self._archive = Archive(context.log, services.blobs, plan.run_id)

    def generate(self) -> None:
        """Ask the model for a turn, unless it is being asked."""
        self._begin("model", self._generate())

    def retry(self, delay_ms: int) -> None:
        """Ask the model again, later."""
        self._begin("model", self._retry(delay_ms))

    def compact(self) -> None:
        """Have the history summed up if that is due, unless the model is being asked or the job is paused."""
        if compaction_due(self._state()) and not self._context.log.tally.paused:
            self._begin("model", self._compact())

    def look_up(self, calls: tuple[ToolCallPart, ...]) -> None:
        """Have the archive answer, unless it does."""
        if calls:
            self._begin("archive", self._look_up(calls))

    def hold(self, wait_ms: int) -> None:
        """Give the sandboxes up after that time, should only people be waited for by then."""
        self._begin("hold", self._hold(wait_ms))

    def delegate(self, calls: tuple[DelegateCall, ...], delegate: Delegate) -> None:
        """Have children run, unless they do."""
        self._begin("children", self._delegate_all(calls, delegate))

    def _begin(self, kind: str, work: Coroutine[Any, Any, None]) -> None:
        if kind in self._busy:
            work.close()
            return
        self._busy[kind] = work
        self.group.start_soon(self._busily, kind, work)

    async def _busily(self, kind: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            if self._busy.get(kind) is work:  # it may have been let go of, and the next one have begun
                self._free(kind)

    def _free(self, kind: str) -> None:
        self._busy.pop(kind, None)

    async def _generate(self) -> None:
        answer = await generate(self._services, self._context, self._plan, self._state())
        self._free("model")  # what follows from the answer may be the next call
        await self._inbox.put(answer)

    async def _retry(self, delay_ms: int) -> None:
        await anyio.sleep(delay_ms / 1000)
        state = self._state()
        # Generating: a sandbox came meanwhile, and the call that it had begun was left to this one.
        if state.phase is Phase.GENERATING or (state.phase is Phase.RESULT and not compaction_due(state)):
            await self._generate()
        else:
            self._free("model")
            await self._inbox.put(Generate())

    async def _compact(self) -> None:
        answer = await summarise(self._services, self._context, self._plan, self._state())
        self._free("model")
        await self._inbox.put(answer)

    async def _look_up(self, calls: tuple[ToolCallPart, ...]) -> None:
        start, step = self._state().start, self._state().step
        query = start.query if start else ""
        results = tuple([await self._archive.answer(call, query) for call in calls])
        self._free("archive")
        await self._inbox.put(LookedUp(step, results))

    async def _hold(self, wait_ms: int) -> None:
        await anyio.sleep(wait_ms / 1000)
        self._free("hold")
        await self._inbox.put(Park())

    async def _delegate_all(self, calls: tuple[DelegateCall, ...], delegate: Delegate) -> None:
        results: list[ToolResultPart | None] = [None] * len(calls)

        async def one(place: int, call: DelegateCall) -> None:
            results[place] = await delegate(self._plan, call)

        async with anyio.create_task_group() as children:
            for place, call in enumerate(calls):
                children.start_soon(one, place, call)
        self._free("children")
        await self._inbox.put(ChildrenAnswered(tuple(result for result in results if result is not None)))
