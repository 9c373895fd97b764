"""Two jobs' state events, run by run and in order: where a job that replays another first differs from it.

Left aside: ids (calls are told by their place in the turn), times, usage, what only a provider understands; and what
tells of circumstances only: generations that began, retries without a turn, sandboxes that were lost or given up. With
live tools a run whose record ends by somebody's order, or by a limit, agrees when it came that far. With a live model
nobody asks for a server, and which model answers is the caller's choice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Final

from perstackd.domain.events import (
    ApprovalDecided,
    CallTools,
    CompactionFailed,
    ElicitationRequested,
    Event,
    FinishAllToolCalls,
    JobFinished,
    Owner,
    Payload,
    Question,
    QuestionAnswered,
    QuestionKind,
    ResumeToolCalls,
    Retry,
    RunPayload,
    StartGeneration,
    StartRun,
    StopRunByCancel,
    StopRunByDelegate,
    StopRunByError,
    StopRunByExceededBudget,
    StopRunByInteractiveTool,
)
from perstackd.domain.ids import JobId, RunId
from perstackd.domain.job_recording import JobRecording, RecordedRun, canonical
from perstackd.domain.messages import TextPart, ThinkingPart, ToolResultPart, Turn
from perstackd.domain.reenactment import NO_TURN, Reenactment, ReplayMode
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_record import RUN_FACTS
from perstackd.domain.run_state import Phase, RunState
from perstackd.domain.tool_calls import EXECUTED, routed

MAX_UNRECORDED: Final = 100
_CIRCUMSTANCES: Final = (
    StartGeneration,
    CompactionFailed,
    StopRunByInteractiveTool,
    StopRunByDelegate,
    FinishAllToolCalls,
)
_ANYWHERE: Final = frozenset({"usage", "delay_ms", "before_tokens", "elicitation"})
_OF: Final[dict[type, frozenset[str]]] = {
    Turn: frozenset({"model", "notes"}),
    TextPart: frozenset({"document"}),
    ThinkingPart: frozenset({"signature", "redacted"}),
    Question: frozenset({"id"}),
    QuestionAnswered: frozenset({"id"}),
    ApprovalDecided: frozenset({"id"}),
}
_MODEL: Final = frozenset({"provider", "model", "reasoning", "compact_at"})


@dataclass(frozen=True, slots=True)
class Difference:
    """The first event that differs. `recorded` is None, and `seq` 0, where the replay does more; `made` is None, and
    `made_seq` 0, where it does less. `field` is the first field that differs, as in turn.parts[0].text.
    """

    seq: int
    made_seq: int
    run_id: RunId
    made_run_id: RunId
    expert_key: str
    step: int
    recorded: Payload | None
    made: Payload | None
    field: str = ""


@dataclass(frozen=True, slots=True)
class UnrecordedCall:
    """A call of a tool, a delegate or a person that the record does not know."""

    seq: int
    run_id: RunId
    expert_key: str
    step: int
    tool: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it: how many state events were found again, in how many runs."""

    compared: int
    runs: int
    difference: Difference | None
    unrecorded: tuple[UnrecordedCall, ...] = ()


def compare(recorded: Sequence[Event], made: Sequence[Event], mode: ReplayMode) -> Comparison:
    """Compare two ended jobs; `made` is the one that replays `recorded`. Both are whole and in order."""
    pairs = tuple(_paired(_tree(recorded), _tree(made)))
    outcomes = [_compare_runs(one, other, mode) for one, other in pairs]
    found = [outcome.difference for outcome in outcomes if outcome.difference is not None]
    first = min(found, key=lambda each: (each.seq or _INFINITY, each.made_seq), default=None)
    if first is None and not any(outcome.cut for outcome in outcomes):
        first = _compare_ends(recorded, made)
    unrecorded = _unrecorded(recorded, made) if mode is ReplayMode.MODEL else ()
    return Comparison(sum(outcome.same for outcome in outcomes), len(pairs), first, unrecorded)


_INFINITY: Final = 1 << 62


# --- pairs of runs --------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Tree:
    """A job's runs with their facts."""

    recording: JobRecording = field(default_factory=JobRecording)
    facts: dict[int, list[Event]] = field(default_factory=dict)

    def of(self, run: RecordedRun) -> list[Event]:
        return self.facts.get(id(run), [])


def _tree(events: Sequence[Event]) -> _Tree:
    tree = _Tree()
    for event in events:
        if isinstance(event.payload, RUN_FACTS):
            tree.recording.add(event.origin, event.payload)
            run = tree.recording.run(event.origin.run_id)
            tree.facts.setdefault(id(run), []).append(event)
    return tree


def _paired(one: _Tree, other: _Tree) -> Iterator[tuple[list[Event], list[Event]]]:
    """Runs of the same delegation of the same run; one that only one job has is told by its parent's events."""
    pending = [(one.recording.root, other.recording.root)]
    while pending:
        left, right = pending.pop()
        yield one.of(left), other.of(right)
        for key, children in left.children.items():
            pending += zip(children, right.children.get(key, []), strict=False)


# --- two runs -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Outcome:
    same: int
    difference: Difference | None = None
    cut: bool = False


def _compare_runs(recorded: Sequence[Event], made: Sequence[Event], mode: ReplayMode) -> _Outcome:
    ours, theirs = tuple(_telling(recorded, mode)), tuple(_telling(made, mode))
    plain, other_plain = _Plain(mode), _Plain(mode)
    for place in range(max(len(ours), len(theirs))):
        one = ours[place] if place < len(ours) else None
        other = theirs[place] if place < len(theirs) else None
        where = _where(plain.of(one), other_plain.of(other))
        if where is None:
            continue
        if mode is ReplayMode.TOOLS and _record_ends(one, theirs[-1] if theirs else None):
            return _Outcome(place, cut=True)
        return _Outcome(place, _difference(one, other, where))
    return _Outcome(len(ours))


def _record_ends(recorded: Event | None, last_made: Event | None) -> bool:
    """Whether the record was cut from outside, so that the replay had nothing left to be told."""
    cut = recorded is not None and isinstance(recorded.payload, StopRunByCancel | StopRunByExceededBudget)
    last = last_made.payload if last_made is not None else None
    return cut and isinstance(last, StopRunByError) and last.reason == NO_TURN


def _difference(recorded: Event | None, made: Event | None, where: str) -> Difference:
    known = recorded or made
    if known is None:
        raise ValueError("nothing differs from nothing")
    return Difference(
        recorded.seq if recorded else 0,
        made.seq if made else 0,
        recorded.origin.run_id if recorded else RunId(""),
        made.origin.run_id if made else RunId(""),
        known.origin.expert_key,
        known.origin.step,
        recorded.payload if recorded else None,
        made.payload if made else None,
        where,
    )


def _telling(events: Sequence[Event], mode: ReplayMode) -> Iterator[Event]:
    """The events that say what was done, without those that say how it went. Results that came before a sandbox was
    lost are told with those that came after.
    """
    state, carried = RunState(), tuple[ToolResultPart, ...]()
    for event in events:
        fact: Any = event.payload
        before, state = state, evolve(state, fact)
        if isinstance(fact, ResumeToolCalls) and before.phase is Phase.CALLING:
            carried = (*carried, *fact.results)
        elif not _circumstance(fact, mode):
            if carried and hasattr(fact, "results"):
                fact, carried = replace(fact, results=(*carried, *fact.results)), ()
            yield replace(event, payload=fact)


def _circumstance(fact: RunPayload, mode: ReplayMode) -> bool:
    if isinstance(fact, _CIRCUMSTANCES) or (isinstance(fact, Retry) and fact.turn is None):
        return True
    asked_by_server = isinstance(fact, ElicitationRequested) or (
        isinstance(fact, QuestionAnswered) and fact.kind is QuestionKind.ELICITATION
    )
    return asked_by_server and mode is ReplayMode.MODEL


def _compare_ends(recorded: Sequence[Event], made: Sequence[Event]) -> Difference | None:
    one, other = recorded[-1], made[-1]
    if not (isinstance(one.payload, JobFinished) and isinstance(other.payload, JobFinished)):
        return None
    where = _where(_Plain(ReplayMode.TOOLS).of(one), _Plain(ReplayMode.TOOLS).of(other))
    return _difference(one, other, where) if where is not None else None


# --- what is compared -----------------------------------------------------------------------------------------------
class _Plain:
    """Events of one run as plain data, without what is left aside. Ids of calls hold within their turn."""

    def __init__(self, mode: ReplayMode) -> None:
        self._live_model = mode is ReplayMode.MODEL
        self._calls: dict[str, int] = {}

    def of(self, event: Event | None) -> object:
        """None for no event."""
        if event is None:
            return None
        if isinstance(event.payload, CallTools):
            self._calls.clear()
        return self._value(event.payload)

    def _value(self, value: object) -> object:
        if is_dataclass(value):
            return {_camel(key): self._field(key, getattr(value, key)) for key in self._keys(value)}
        if isinstance(value, tuple | list):
            return [self._value(item) for item in value]
        return value

    def _keys(self, value: Any) -> Iterator[str]:
        left_aside = _ANYWHERE | _OF.get(type(value), frozenset())
        if self._live_model and isinstance(value, StartRun):
            left_aside |= _MODEL
        names = [each.name for each in fields(value) if each.name not in left_aside]
        yield from sorted(names, key=lambda name: name != "type")

    def _field(self, key: str, value: Any) -> object:
        if key == "call_id":
            return self._call(value)
        if key == "call_ids":
            return [self._call(each) for each in value]
        if key == "results":
            return self._value(sorted(value, key=lambda result: self._call(result.call_id)))
        return self._value(value)

    def _call(self, call_id: str) -> int:
        return self._calls.setdefault(call_id, len(self._calls) + 1)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _where(one: object, other: object) -> str | None:
    """The first place where two plain values differ, empty for the whole; None when they are the same."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return next((_below(key, at) for key in keys if (at := _at(one, other, key)) is not None), None)
    if isinstance(one, list) and isinstance(other, list):
        for place, (left, right) in enumerate(zip(one, other, strict=False)):
            if (at := _where(left, right)) is not None:
                return _below(f"[{place}]", at)
        shorter = min(len(one), len(other))
        return None if len(one) == len(other) else f"[{shorter}]"
    return None if type(one) is type(other) and one == other else ""


def _at(one: dict[str, object], other: dict[str, object], key: str) -> str | None:
    return _where(one[key], other[key]) if key in one and key in other else ""


def _below(key: str, at: str) -> str:
    return f"{key}{at}" if not at or at.startswith("[") else f"{key}.{at}"


# --- what the record does not know ----------------------------------------------------------------------------------
def _unrecorded(recorded: Sequence[Event], made: Sequence[Event]) -> tuple[UnrecordedCall, ...]:
    recording = JobRecording()
    for event in recorded:
        if isinstance(event.payload, RUN_FACTS):
            recording.add(event.origin, event.payload)
    stage, starts = Reenactment(ReplayMode.MODEL, JobId(""), recording), dict[RunId, StartRun]()
    found: list[UnrecordedCall] = []
    for event in made:
        fact, run_id = event.payload, event.origin.run_id
        if not isinstance(fact, RUN_FACTS):
            continue
        stage.saw(event.origin, fact)
        if isinstance(fact, StartRun):
            starts[run_id] = fact
        elif isinstance(fact, CallTools) and run_id in starts:
            found += _unknown_calls(stage, event, starts[run_id], fact.turn)
    return tuple(found[:MAX_UNRECORDED])


def _unknown_calls(stage: Reenactment, event: Event, start: StartRun, turn: Turn) -> Iterator[UnrecordedCall]:
    """Calls of tools are told by their results; the others have one too, once somebody answered."""
    origin = event.origin
    asked = EXECUTED | {Owner.DELEGATE, Owner.PERSON}
    for call, route in routed(start, turn):
        if route is not None and route.owner in asked and stage.result(origin.run_id, call.call_id) is None:
            arguments = canonical(call.arguments)
            yield UnrecordedCall(event.seq, origin.run_id, origin.expert_key, origin.step, call.name, arguments)
