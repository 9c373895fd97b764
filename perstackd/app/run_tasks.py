"""What a run has others do at its side: model calls, look-ups, children, waits. Each ends in the run's inbox."""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

from perstackd.app.archive import Archive
from perstackd.app.compaction import summarise
from perstackd.app.generation import generate
from perstackd.app.job_log import Entry
from perstackd.app.run_context import JobContext, RunPlan, RunServices
from perstackd.app.run_inbox import Finished, LookedUp, Outcome, RunInbox
from perstackd.app.run_party import RunParty
from perstackd.domain.commands import ChildrenAnswered, Generate, Park
from perstackd.domain.compaction import compaction_due
from perstackd.domain.events import DelegateCall
from perstackd.domain.messages import ToolCallPart, ToolResultPart
from perstackd.domain.run_state import Phase, RunState

Delegate: TypeAlias = Callable[[RunPlan, DelegateCall], Awaitable[ToolResultPart]]
State: TypeAlias = Callable[[], RunState]
Release: TypeAlias = Callable[[], Awaitable[Sequence[Entry]]]
"""Gives sandboxes back; returns what is to be written of it."""


@dataclass(frozen=True, slots=True)
class RunHost:
    """What a run asks of its job: to run a child, to be told its place while it waits, to give sandboxes back later."""

    delegate: Delegate
    waiting: Callable[[int, str], None]
    later: Callable[[RunParty, Release], None]


class RunTasks:
    """Its tasks belong to `group`, which the run's worker enters and cancels at its end. One of a kind at a time, until
    the worker has taken what came of it: what it does in between must not begin the same again.
    """

    def __init__(
        self, services: RunServices, context: JobContext, plan: RunPlan, inbox: RunInbox, state: State
    ) -> None:
        self.group: TaskGroup = anyio.create_task_group()
        self._services = services
        self._context = context
        self._plan = plan
        self._inbox = inbox
        self._state = state
        self._busy: set[str] = set()
        self._look = Archive(context.log, services.blobs, plan.run_id).answer

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

    def _begin(self, kind: str, work: Coroutine[Any, Any, Outcome]) -> None:
        if kind in self._busy:
            work.close()
            return
        self._busy.add(kind)
        self.group.start_soon(self._carry_out, kind, work)

    async def _carry_out(self, kind: str, work: Coroutine[Any, Any, Outcome]) -> None:
        await self._inbox.put(Finished(await work, partial(self._busy.discard, kind)))

    async def _generate(self) -> Outcome:
        return await generate(self._services, self._context, self._plan, self._state())

    async def _retry(self, delay_ms: int) -> Outcome:
        await anyio.sleep(delay_ms / 1000)
        state = self._state()
        # Generating: a sandbox came meanwhile, and the call that it had begun was left to this one.
        asked = state.phase is Phase.GENERATING or (state.phase is Phase.RESULT and not compaction_due(state))
        return await self._generate() if asked else Generate()

    async def _compact(self) -> Outcome:
        return await summarise(self._services, self._context, self._plan, self._state())

    async def _look_up(self, calls: tuple[ToolCallPart, ...]) -> Outcome:
        start, step = self._state().start, self._state().step
        query = start.query if start else ""
        return LookedUp(step, tuple([await self._look(call, query) for call in calls]))

    async def _hold(self, wait_ms: int) -> Outcome:
        await anyio.sleep(wait_ms / 1000)
        return Park()

    async def _delegate_all(self, calls: tuple[DelegateCall, ...], delegate: Delegate) -> Outcome:
        results: list[ToolResultPart | None] = [None] * len(calls)

        async def one(place: int, call: DelegateCall) -> None:
            results[place] = await delegate(self._plan, call)

        async with anyio.create_task_group() as children:
            for place, call in enumerate(calls):
                children.start_soon(one, place, call)
        return ChildrenAnswered(tuple(result for result in results if result is not None))
