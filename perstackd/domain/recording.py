"""The model's side of a job, out of its log: each turn with the request that it answered."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from perstackd.domain.compaction import summary_messages
from perstackd.domain.events import CallTools, CompleteRun, ContextCompacted, Event, Retry, StartRun
from perstackd.domain.ids import RunId
from perstackd.domain.messages import FinishReason, Message, ModelRequest, TextPart, Turn
from perstackd.domain.run import request_messages
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_record import RUN_FACTS
from perstackd.domain.run_state import RunState


@dataclass(frozen=True, slots=True)
class AnsweredRequest:
    """What a model was told, as far as it saw it: how it was reached is not in the log. `expert_key` is whose run."""

    request: ModelRequest
    turn: Turn
    expert_key: str


class TurnFold:
    """The runs of one job, folded event by event in the order of its log."""

    def __init__(self) -> None:
        self._states: dict[RunId, RunState] = {}

    def add(self, event: Event) -> AnsweredRequest | None:
        """The request and its turn when the event holds one."""
        fact, run_id = event.payload, event.origin.run_id
        if not isinstance(fact, RUN_FACTS):
            return None
        before = self._states.get(run_id, RunState())
        self._states[run_id] = evolve(before, fact)
        if before.start is None:
            return None
        match fact:
            case CallTools(turn=turn):
                told = request_messages(before)
            case CompleteRun(turn=Turn() as turn) | Retry(turn=Turn() as turn):
                told = request_messages(before)
            case ContextCompacted(summary=summary, usage=usage, model=model):
                turn, told = Turn((TextPart(summary),), FinishReason.STOP, usage, model), summary_messages(before)
            case _:
                return None
        return AnsweredRequest(_request(before.start, told), turn, event.origin.expert_key)


def answered_requests(events: Iterable[Event]) -> Iterator[AnsweredRequest]:
    """All turns of a job. `events` are the job's, in order."""
    fold = TurnFold()
    yield from (found for event in events if (found := fold.add(event)) is not None)


def _request(start: StartRun, messages: tuple[Message, ...]) -> ModelRequest:
    return ModelRequest(
        provider=start.provider,
        model=start.model,
        system=start.system,
        tools=start.tools,
        messages=messages,
        reasoning=start.reasoning,
        provider_tools=start.provider_tools,
        provider_tool_options=start.provider_tool_options,
        provider_skills=start.provider_skills,
    )
