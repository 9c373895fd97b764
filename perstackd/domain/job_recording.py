"""A job's log, by what may be asked of it again: each run's turns, the results of its calls, people's answers, the runs
that it delegated to. All of it in order of occurrence, so that the second time of the same call has the second result.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from perstackd.domain.events import (
    ApprovalDecided,
    ApprovalRequested,
    AttemptCompletion,
    CallDelegate,
    CallInteractiveTool,
    CallTools,
    CompleteRun,
    ContextCompacted,
    DelegateCall,
    ElicitationRequested,
    FinishToolCall,
    HistoryInherited,
    Origin,
    Question,
    QuestionAnswered,
    QuestionKind,
    ResolveToolResults,
    ResumeToolCalls,
    Retry,
    RunPayload,
    StartRun,
    StopRunByCancel,
    StopRunByError,
    StopRunByExceededBudget,
    StopRunByExceededMaxSteps,
)
from perstackd.domain.ids import RunId
from perstackd.domain.messages import FinishReason, TextPart, ToolCallPart, ToolResultPart, Turn
from perstackd.domain.questions import answer_result, denied_result


class CallKey(NamedTuple):
    """What makes two calls the same: the name that the model saw, and the arguments in canonical JSON."""

    tool: str
    arguments: str


class QuestionKey(NamedTuple):
    """What makes two questions the same. `message` is a server's own, empty for the questions of calls."""

    kind: QuestionKind
    skill: str
    tool: str
    arguments: str
    message: str


class DelegationKey(NamedTuple):
    """What makes two delegations the same."""

    expert_key: str
    query: str


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """What a person said, as the command `Answer` has it."""

    action: str
    content: str


@dataclass(slots=True)
class RecordedRun:
    """One run, filled in the order of its log. What has no result or answer yet is None. `call_places`, `birth` and
    `question_places` say which occurrence a call of the turn in hand, the run itself, and a question are.
    """

    parent: "RecordedRun | None" = None
    birth: tuple[DelegationKey, int] = (DelegationKey("", ""), 0)
    start: StartRun | None = None
    inherited: HistoryInherited | None = None
    end: RunPayload | None = None
    turns: list[Turn] = field(default_factory=list)
    summaries: list[Turn] = field(default_factory=list)
    calls: dict[CallKey, list[ToolResultPart | None]] = field(default_factory=dict)
    answers: dict[QuestionKey, list[GivenAnswer | None]] = field(default_factory=dict)
    children: dict[DelegationKey, list["RecordedRun"]] = field(default_factory=dict)
    delegated: dict[str, "RecordedRun"] = field(default_factory=dict)
    call_places: dict[str, tuple[CallKey, int]] = field(default_factory=dict)
    question_places: dict[str, tuple[QuestionKey, int]] = field(default_factory=dict)


class JobRecording:
    """The runs of one job, folded fact by fact."""

    def __init__(self) -> None:
        self.root = RecordedRun()
        self._runs: dict[RunId, RecordedRun] = {}

    def run(self, run_id: RunId) -> RecordedRun | None:
        """The run of that id, once it has a fact."""
        return self._runs.get(run_id)

    def child(self, parent_run_id: RunId, call_id: str) -> RecordedRun | None:
        """The run that answers a call of another, or is about to; without a parent the coordinator's."""
        if not parent_run_id:
            return self.root
        parent = self._runs.get(parent_run_id)
        return parent.delegated.get(call_id) if parent is not None else None

    def add(self, origin: Origin, fact: RunPayload) -> None:
        """Take in the job's next fact."""
        run = self._runs.get(origin.run_id)
        if run is None:
            call_id = fact.call_id if isinstance(fact, StartRun) else ""
            run = self._runs[origin.run_id] = self.child(origin.parent_run_id, call_id) or RecordedRun()
        _add(run, fact)


def _add(run: RecordedRun, fact: RunPayload) -> None:  # noqa: C901 - one case a fact
    match fact:
        case StartRun():
            run.start = fact
        case HistoryInherited():
            run.inherited = fact
        case CallTools(turn=turn):
            run.turns.append(turn)
            _add_calls(run, turn.calls)
        case CompleteRun(turn=Turn() as turn) | Retry(turn=Turn() as turn):
            run.turns.append(turn)
        case ContextCompacted(summary=summary, usage=usage, model=model):
            run.summaries.append(Turn((TextPart(summary),), FinishReason.STOP, usage, model))
        case QuestionAnswered(id=question_id, kind=kind, action=action, content=content):
            _answer(run, question_id, GivenAnswer(action, content))
            _add_results(run, (answer_result(fact),) if kind is QuestionKind.TOOL else ())
        case ApprovalDecided(id=question_id, approved=approved, reason=reason):
            _answer(run, question_id, GivenAnswer("approve" if approved else "deny", reason))
            _add_results(run, () if approved else (denied_result(fact),))
        case ElicitationRequested(question=question):
            _ask(run, question)
        case StopRunByCancel() | StopRunByError() | StopRunByExceededBudget() | StopRunByExceededMaxSteps():
            run.end = fact
        case (
            ResolveToolResults()
            | CallDelegate()
            | CallInteractiveTool()
            | ApprovalRequested()
            | AttemptCompletion()
            | FinishToolCall()
            | ResumeToolCalls()
        ):
            _add_results(run, fact.results)
            _add_asked(run, fact)
        case _:
            pass


def _add_calls(run: RecordedRun, calls: Iterable[ToolCallPart]) -> None:
    run.call_places.clear()
    for call in calls:
        key = CallKey(call.name, canonical(call.arguments))
        known = run.calls.setdefault(key, [])
        run.call_places[call.call_id] = (key, len(known))
        known.append(None)


def _add_results(run: RecordedRun, results: Iterable[ToolResultPart]) -> None:
    for result in results:
        if result.call_id in run.call_places:
            key, place = run.call_places[result.call_id]
            run.calls[key][place] = result


def _add_asked(run: RecordedRun, fact: RunPayload) -> None:
    match fact:
        case CallDelegate(calls=calls):
            for call in calls:
                _delegate(run, call)
        case CallInteractiveTool(questions=questions):
            for question in questions:
                _ask(run, question)
        case ApprovalRequested(question=question):
            _ask(run, question)
        case _:
            pass


def _delegate(run: RecordedRun, call: DelegateCall) -> None:
    key = DelegationKey(call.expert_key, call.query)
    known = run.children.setdefault(key, [])
    child = run.delegated[call.call_id] = RecordedRun(run, (key, len(known)))
    known.append(child)


def _ask(run: RecordedRun, question: Question) -> None:
    key = question_key(question)
    known = run.answers.setdefault(key, [])
    run.question_places[question.id] = (key, len(known))
    known.append(None)


def _answer(run: RecordedRun, question_id: str, given: GivenAnswer) -> None:
    if question_id in run.question_places:
        key, place = run.question_places[question_id]
        run.answers[key][place] = given


def question_key(question: Question) -> QuestionKey:
    """What makes the question the same as another."""
    message = question.message if question.kind is QuestionKind.ELICITATION else ""
    return QuestionKey(question.kind, question.skill, question.tool, canonical(question.arguments), message)


def canonical(value: object) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
