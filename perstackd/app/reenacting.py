"""What a run of a replay is told in place of a model, of sandboxes, of people: read from another job's log.

Above are the run of a replay and what takes it up again; below is the fold of both logs (`domain.reenactment`).
"""

from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from typing import Final

from perstackd.app.call_wave import CallWave
from perstackd.app.compaction import summarise
from perstackd.app.generation import generate
from perstackd.app.run_context import JobContext, RunPlan, RunServices
from perstackd.app.run_inbox import Outcome, RunInbox
from perstackd.app.run_opening import Opening
from perstackd.app.run_party import RunParty
from perstackd.app.run_tasks import RunTasks, State
from perstackd.domain.commands import Begin, Fail
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import Event, JobCreated, StartRun
from perstackd.domain.ids import JobId, RunId
from perstackd.domain.job_recording import JobRecording
from perstackd.domain.messages import (
    ModelEvent,
    ModelRequest,
    TextDelta,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from perstackd.domain.reenactment import Reenactment, ReplayMode
from perstackd.domain.run_record import RUN_FACTS
from perstackd.domain.run_state import RunState
from perstackd.domain.tool_calls import due_calls, error_result, turn_in_hand
from perstackd.ports.event_store import EventStore

_PAGE: Final = 500
NOT_RECORDED: Final = "not_recorded"


async def recording_of(store: EventStore, job_id: JobId) -> JobRecording:
    """The whole log of a job, to be asked of; it is held in memory."""
    recording, seq = JobRecording(), 0
    while stored := await store.read(job_id, seq, _PAGE):
        for each in stored:
            if isinstance(each.event.payload, RUN_FACTS):
                recording.add(each.event.origin, each.event.payload)
        seq = stored[-1].event.seq
    return recording


async def reenactment_of(store: EventStore, created: JobCreated, own: Iterable[Event]) -> Reenactment | None:
    """What the job replays, that began with `created` and has the events `own` so far; None when it replays nothing.

    Raises:
        PerstackError: PRECONDITION `replayed_job_gone`.
    """
    if not created.replay:
        return None
    job_id = JobId(created.parent_job_id)
    recording = await recording_of(store, job_id)
    if recording.root.start is None:
        message = f"job {job_id}, which this one replays, was deleted; a replay needs its log"
        raise PerstackError(Kind.PRECONDITION, "replayed_job_gone", message)
    stage = Reenactment(ReplayMode(created.replay), job_id, recording)
    for event in own:
        if isinstance(event.payload, RUN_FACTS):
            stage.saw(event.origin, event.payload)
    return stage


def unpaid(services: RunServices) -> RunServices:
    """The services of runs whose turns are recorded ones: those were paid for once."""
    return replace(services, price=_nothing)


def _nothing(_provider: str, _model: str, _usage: Usage) -> int:
    return 0


# --- a model --------------------------------------------------------------------------------------------------------
class RecordedModels:
    """Implements `Models` for one run. `summaries` answers requests for a summary of the history."""

    def __init__(self, stage: Reenactment, run_id: RunId, *, summaries: bool = False) -> None:
        self._stage = stage
        self._run_id = run_id
        self._next = stage.summary if summaries else stage.turn

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        del request  # the record tells what comes next, whatever the tools said this time
        turn = self._next(self._run_id)
        for part in turn.parts:
            if isinstance(part, TextPart):
                yield TextDelta(part.text)
            elif isinstance(part, ThinkingPart):
                yield ThinkingDelta(part.text)
        yield turn

    async def close(self) -> None:
        """Nothing is open between calls."""


class ReplayTasks(RunTasks):
    """A run's tasks, of which the model's or the archive's are done by the record."""

    def __init__(
        self,
        services: RunServices,
        context: JobContext,
        plan: RunPlan,
        inbox: RunInbox,
        state: State,
        *,
        stage: Reenactment,
    ) -> None:
        super().__init__(services, context, plan, inbox, state)
        self._turns = self._summaries = services
        if stage.mode is ReplayMode.TOOLS:
            self._turns = replace(services, models=RecordedModels(stage, plan.run_id))
            self._summaries = replace(services, models=RecordedModels(stage, plan.run_id, summaries=True))
        else:
            self._look = RecordedTools(stage, plan.run_id).answer

    async def _generate(self) -> Outcome:
        return await generate(self._turns, self._context, self._plan, self._state())

    async def _compact(self) -> Outcome:
        return await summarise(self._summaries, self._context, self._plan, self._state())


# --- tools ----------------------------------------------------------------------------------------------------------
class RecordedTools:
    """Answers every call of one run from the record."""

    def __init__(self, stage: Reenactment, run_id: RunId) -> None:
        self._stage = stage
        self._run_id = run_id

    async def answer(self, call: ToolCallPart, query: str) -> ToolResultPart:
        """The recorded result, or an error that says that there is none."""
        del query
        found = self._stage.result(self._run_id, call.call_id)
        return found or not_recorded(self._stage, call.call_id, f"call of {call.name[:64]!r} with these arguments")


class RecordedWave(CallWave):
    """No call goes to a sandbox: the record answers all."""

    def start(self, state: RunState, party: RunParty | None) -> tuple[ToolCallPart, ...]:
        super().start(state, None)
        due = frozenset(due_calls(state))
        return tuple(call for call in turn_in_hand(state).calls if call.call_id in due)


def not_recorded(stage: Reenactment, call_id: str, what: str) -> ToolResultPart:
    """What a model is told that asks for something that the record does not know."""
    message = f"this is a replay of job {stage.job_id}, whose record has no such {what}, or none that is left; not run"
    return error_result(call_id, NOT_RECORDED, message)


# --- the first fact -------------------------------------------------------------------------------------------------
class ReplayOpening(Opening):
    """With a live model a run begins as the recorded one; with live tools the tools are those that are there now. The
    model, and when its history is summed up, are the recorded ones unless the caller asked for another.
    """

    def begin(self, inherited: StartRun | None = None) -> Begin | Fail:
        stage, plan = self.context.replay, self.plan
        recorded = stage.start(plan.parent_run_id, plan.call_id) if stage is not None else None
        if stage is None or recorded is None:
            return super().begin(inherited)
        if stage.mode is ReplayMode.MODEL:
            return Begin(self._asked(replace(recorded, call_id=plan.call_id)))
        begun = super().begin(inherited)
        return Begin(_pinned(begun.start, recorded)) if isinstance(begun, Begin) else begun

    def _asked(self, start: StartRun) -> StartRun:
        asked = self.context.model
        provider, model = asked.provider or start.provider, asked.model or start.model
        if (provider, model) == (start.provider, start.model):
            return start
        return replace(
            start, provider=provider, model=model, compact_at=self.services.windows.compact_at(provider, model)
        )


def _pinned(start: StartRun, recorded: StartRun) -> StartRun:
    return replace(
        start,
        provider=recorded.provider,
        model=recorded.model,
        reasoning=recorded.reasoning,
        compact_at=recorded.compact_at,
    )
