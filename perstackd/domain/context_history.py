"""The texts of a job's events, for those who search them: what was asked, said, called, answered and summed up."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from perstackd.domain.context_artefact import Artefact
from perstackd.domain.events import (
    ApprovalRequested,
    AttemptCompletion,
    CallDelegate,
    CallInteractiveTool,
    CallTools,
    CompleteRun,
    ContextCompacted,
    Event,
    FinishToolCall,
    HistoryInherited,
    Question,
    QuestionAnswered,
    ResolveToolResults,
    ResumeToolCalls,
    Retry,
    StartRun,
)
from perstackd.domain.messages import BlobPart, Message, Part, Role, TextPart, ToolCallPart, ToolResultPart, Turn
from perstackd.domain.tool_calls import ARCHIVE_TOOLS

_WITH_RESULTS: Final = (
    ApprovalRequested,
    AttemptCompletion,
    CallDelegate,
    CallInteractiveTool,
    FinishToolCall,
    ResolveToolResults,
    ResumeToolCalls,
    Retry,
)


@dataclass(frozen=True, slots=True)
class Told:
    """A text, or an artefact, and where it is from: `place` is in words."""

    event: Event
    place: str
    text: str = ""
    artefact: Artefact | None = None


@dataclass(slots=True)
class History:
    """Goes through a job's events in order. `run_id` is who asks: it sees itself and what it delegated to, whoever
    does it; `query` is what it was asked, which may name artefacts of others.
    """

    run_id: str
    query: str = ""
    artefacts: dict[str, Artefact] = field(default_factory=dict)
    _visible: set[str] = field(default_factory=set, init=False)
    _tools: dict[tuple[str, str], str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._visible.add(self.run_id)

    def read(self, event: Event) -> Iterator[Told]:
        """The event's texts and new artefacts; none for an event of a run that is nobody's business."""
        run_id = event.origin.run_id
        if event.origin.parent_run_id in self._visible and event.origin.parent_run_id:
            self._visible.add(run_id)
        payload = event.payload
        visible = run_id in self._visible
        if visible:
            yield from (Told(event, place, text) for place, text in _texts(event) if text)
        match payload:
            case CallTools(turn=turn):
                self._called(event, turn.calls)
            case HistoryInherited(messages=messages):
                yield from self._inherited(event, messages, visible=visible)
            case _ if isinstance(payload, _WITH_RESULTS):
                yield from self._results(event, payload.results, visible=visible)

    def _called(self, event: Event, calls: Iterable[ToolCallPart]) -> None:
        self._tools |= {(event.origin.run_id, call.call_id): call.name for call in calls}

    def _inherited(self, event: Event, messages: Iterable[Message], *, visible: bool) -> Iterator[Told]:
        for message in messages:
            self._called(event, (part for part in message.parts if isinstance(part, ToolCallPart)))
            results = [part for part in message.parts if isinstance(part, ToolResultPart)]
            yield from self._results(event, results, visible=visible)
            texts = (_spoken(message.role, part) for part in message.parts if visible)
            yield from (Told(event, *told) for told in texts if told is not None)

    def _results(self, event: Event, results: Iterable[ToolResultPart], *, visible: bool) -> Iterator[Told]:
        for result in results:
            tool = self._tools.get((event.origin.run_id, result.call_id), "a call")
            if tool in ARCHIVE_TOOLS:
                continue  # copies of what stands elsewhere
            for part in result.content:
                if isinstance(part, TextPart):
                    if visible:
                        yield Told(event, f"result of {tool}", part.text)
                    continue
                new = self._kept(event, result.call_id, part, visible=visible)
                if new is not None:
                    yield Told(event, f"result of {tool}", artefact=new)

    def _kept(self, event: Event, call_id: str, blob: BlobPart, *, visible: bool) -> Artefact | None:
        artefact = Artefact(blob, event.origin.run_id, event.origin.step, call_id)
        if blob.digest in self.artefacts or not (visible or artefact.id in self.query):
            return None
        self.artefacts[blob.digest] = artefact
        return artefact


def _texts(event: Event) -> Iterator[tuple[str, str]]:
    match event.payload:
        case StartRun(query=query):
            yield "query", query
        case CallTools(turn=Turn() as turn) | Retry(turn=Turn() as turn):
            yield from (told for part in turn.parts if (told := _spoken(Role.ASSISTANT, part)) is not None)
        case CompleteRun(text=text):
            yield "answer", text
        case CallInteractiveTool(questions=questions):
            yield from map(_asked, questions)
        case ApprovalRequested(question=question):
            yield _asked(question)
        case QuestionAnswered(content=content):
            yield "answer of a person", content
        case ContextCompacted(summary=summary):
            yield "summary", summary
        case _:
            pass


def _spoken(role: Role, part: Part) -> tuple[str, str] | None:
    """What was thought is not among it: only its provider can read some of it, and it was never said."""
    match part:
        case TextPart(text=text) if text:
            return ("said" if role is Role.ASSISTANT else "query"), text
        case ToolCallPart() if part.name not in ARCHIVE_TOOLS:
            return f"call of {part.name}", json.dumps(part.arguments, ensure_ascii=False)
        case _:
            return None


def _asked(question: Question) -> tuple[str, str]:
    return "question to a person", question.message
