"""Checkpoints: where a run stood at the end of each of its steps, folded from its job's log, and what a new job takes
over from one.

A step ends with the start of the next one or with its run. In the middle of a step, calls may be without a result:
such a checkpoint is there only where a run ended so, and its history is closed with error results when a job goes on
from it.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import ContinueToNextStep, Event, HistoryInherited, StartRun
from perstackd.domain.ids import JobId, RunId
from perstackd.domain.messages import Message, Role, ToolCallPart, ToolResultPart
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_record import RUN_FACTS
from perstackd.domain.run_state import RunState
from perstackd.domain.tool_calls import interrupted_result

_STOPPED: Final = "the earlier job ended before this call was answered"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run at the end of a step. `seq` is the event that the fold goes up to: unique in the job. `timestamp` is that
    event's, in milliseconds since the epoch.
    """

    job_id: JobId
    seq: int
    run_id: RunId
    parent_run_id: RunId
    expert_key: str
    step: int
    timestamp: int
    state: RunState

    @property
    def start(self) -> StartRun | None:
        """What the run was started with; None when it ended before."""
        return self.state.start

    @property
    def call_id(self) -> str:
        """The parent's call that the run answers; empty for the coordinator."""
        return self.state.start.call_id if self.state.start else ""

    @property
    def outcome(self) -> str:
        """How the run ended here; empty when it went on."""
        return self.state.end.outcome.value if self.state.end else ""

    @property
    def pending(self) -> tuple[ToolCallPart, ...]:
        """Calls of the last turn that have no result."""
        answered = {result.call_id for result in self.state.results}
        return tuple(call for call in _open_calls(self.state.messages) if call.call_id not in answered)

    @property
    def partial(self) -> tuple[ToolResultPart, ...]:
        """Results of the last turn while others of it are missing."""
        return self.state.results if self.pending else ()


class JobFold:
    """The runs of one job, folded event by event in the order of its log. One state a run is held."""

    def __init__(self) -> None:
        self._states: dict[RunId, RunState] = {}

    def add(self, event: Event) -> Checkpoint | None:
        """The checkpoint that the event stands for, if it ends a step."""
        payload, origin = event.payload, event.origin
        if not origin.run_id or not isinstance(payload, RUN_FACTS):
            return None
        before = self._states.get(origin.run_id, RunState())
        state = self._states[origin.run_id] = evolve(before, payload)
        if not isinstance(payload, ContinueToNextStep) and (state.end is None or before.end is not None):
            return None
        run = (origin.run_id, origin.parent_run_id, origin.expert_key, before.step)
        return Checkpoint(event.job_id, event.seq, *run, event.timestamp, state)


def checkpoints(events: Iterable[Event]) -> Iterator[Checkpoint]:
    """The checkpoints of all runs of a job, in the order of its log. `events` are the job's, in order."""
    fold = JobFold()
    yield from (found for event in events if (found := fold.add(event)) is not None)


def named(wanted: str) -> Callable[[Checkpoint], bool]:
    """Whether a checkpoint is the one that `wanted` names: the number of its event, or RUN/STEP; empty means those of
    the coordinator. Where several fit, the last one is meant.

    Raises:
        PerstackError: INVALID `checkpoint_invalid` for a name of another form.
    """
    if not wanted:
        return lambda checkpoint: not checkpoint.parent_run_id
    found = _NAME.fullmatch(wanted)
    if found is None:
        message = f"{wanted[:64]!r} names no checkpoint; give the number of its event, or RUN/STEP"
        raise PerstackError(Kind.INVALID, "checkpoint_invalid", message)
    run_id, number = found[1], int(found[2])
    if run_id is None:
        return lambda checkpoint: checkpoint.seq == number
    return lambda checkpoint: (checkpoint.run_id, checkpoint.step) == (run_id, number)


_NAME: Final = re.compile(r"(?:([^/]{1,64})/)?([0-9]{1,12})")


def closed_history(state: RunState) -> tuple[Message, ...]:
    """The messages as a model may be sent them: calls of the last turn that have no result get an error."""
    calls = _open_calls(state.messages)
    if not calls:
        return state.messages
    known = {result.call_id: result for result in state.results}
    results = (known.get(call.call_id) or interrupted_result(call.call_id, _STOPPED) for call in calls)
    return (*state.messages, Message(Role.TOOL, tuple(results)))


def needs_query(messages: tuple[Message, ...]) -> bool:
    """Whether there is nothing to answer until somebody asks: the model spoke last."""
    return not messages or messages[-1].role is Role.ASSISTANT


def inherited(checkpoint: Checkpoint, provider: str = "", model: str = "") -> HistoryInherited:
    """What a new job's coordinator takes over; `provider` and `model` take the place of those of then.

    Raises:
        PerstackError: PRECONDITION `checkpoint_empty` when the run ended before its first model request.
    """
    start = checkpoint.start
    if start is None:
        message = f"the run {checkpoint.run_id} ended before it began; there is nothing to go on from: start a new job"
        raise PerstackError(Kind.PRECONDITION, "checkpoint_empty", message)
    start = replace(start, query="", depth=0, call_id="")
    start = replace(start, provider=provider or start.provider, model=model or start.model)
    history = closed_history(checkpoint.state)
    return HistoryInherited(
        checkpoint.job_id, checkpoint.run_id, checkpoint.seq, start, history, checkpoint.state.todos
    )


def _open_calls(messages: tuple[Message, ...]) -> tuple[ToolCallPart, ...]:
    if not messages or messages[-1].role is not Role.ASSISTANT:
        return ()
    return tuple(part for part in messages[-1].parts if isinstance(part, ToolCallPart))
