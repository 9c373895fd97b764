"""The fold of one run's events: its step, calls, texts, tokens and end. Pure; see `trace` for the job around it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from perstackctl.client.questions import Question, QuestionKind
from perstackctl.client.values import Event, StreamPiece, Usage
from perstackctl.watch import payload as p

_NO_TOKENS: Final = Usage()
CALLS_KEPT: Final = 32
TEXT_KEPT: Final = 16_384
RESULT_KEPT: Final = 1_000

PHASES: Final[Mapping[str, str]] = {
    "startRun": "preparing",
    "startGeneration": "generating",
    "retry": "retrying",
    "callTools": "calling",
    "callDelegate": "delegating",
    "callInteractiveTool": "asking",
    "approvalRequested": "asking",
    "resolveToolResults": "resolving",
    "attemptCompletion": "result",
    "finishToolCall": "finishing",
    "resumeToolCalls": "calling",
    "finishAllToolCalls": "finishing",
    "continueToNextStep": "preparing",
    "stopRunByInteractiveTool": "asking",
    "stopRunByDelegate": "delegating",
}
OUTCOMES: Final[Mapping[str, str]] = {
    "completeRun": "completed",
    "stopRunByError": "failed",
    "stopRunByExceededMaxSteps": "stopped",
    "stopRunByExceededBudget": "stopped",
    "stopRunByCancel": "cancelled",
}


@dataclass(frozen=True, slots=True)
class Stream:
    """A text as it arrives: its last part, and how many UTF-8 bytes of it were seen."""

    id: str = ""
    kind: str = ""
    text: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a model. `ended_at` is 0 while it runs; `expert` is not empty when it is a delegation."""

    id: str
    name: str
    arguments: str
    step: int
    started_at: int
    ended_at: int = 0
    is_error: bool = False
    result: str = ""
    expert: str = ""
    output: Stream = Stream()


@dataclass(frozen=True, slots=True)
class Run:
    """One expert's activation. `calls` are its last ones; `stream` is the text that its model is producing.

    `delegates` are the experts that it can ask, by the names of their tools. `questions` wait for a person.
    `starting` are the skills whose servers are on their way. `said` is the text of its model's last turn.
    """

    id: str
    parent_id: str
    expert: str
    phase: str = "waiting"
    step: int = 0
    query: str = ""
    provider: str = ""
    model: str = ""
    started_at: int = 0
    ended_at: int = 0
    sandboxes: tuple[str, ...] = ()
    usage: Usage = _NO_TOKENS
    calls: tuple[ToolCall, ...] = ()
    calls_total: int = 0
    stream: Stream = Stream()
    outcome: str = ""
    detail: str = ""
    note: str = ""
    delegates: Mapping[str, str] = field(default_factory=dict)
    questions: tuple[Question, ...] = ()
    starting: tuple[str, ...] = ()
    said: str = ""

    def call(self, call_id: str) -> ToolCall | None:
        """One of the kept calls."""
        return next((call for call in reversed(self.calls) if call.id == call_id), None)


def fold_run(run: Run, event: Event, fields: p.Fields) -> Run:
    """The run after one of its stored events; events that are not known change nothing."""
    if event.type in PHASES:
        run = replace(run, phase=PHASES[event.type], step=event.step_number or run.step)
    elif event.type in OUTCOMES:
        run = replace(
            run,
            phase="stopped",
            outcome=OUTCOMES[event.type],
            ended_at=event.timestamp,
            stream=Stream(),
            note="",
            questions=(),
        )
    return _fold_content(run, event, fields)


def _fold_content(run: Run, event: Event, fields: p.Fields) -> Run:
    change = _CHANGES.get(event.type)
    return change(run, event, fields) if change else run


def _start(run: Run, _event: Event, fields: p.Fields) -> Run:
    routes = [route for route in p.items(fields, "routes") if route.get("owner") == "delegate"]
    return replace(
        run,
        query=p.text(fields, "query")[:RESULT_KEPT],
        provider=p.text(fields, "provider"),
        model=p.text(fields, "model"),
        delegates={p.text(route, "name"): p.text(route, "target") for route in routes},
    )


def _quiet(run: Run, _event: Event, _fields: p.Fields) -> Run:
    return replace(run, note="", stream=Stream())


def _sandbox(run: Run, _event: Event, fields: p.Fields) -> Run:
    return replace(run, sandboxes=(*run.sandboxes, p.text(fields, "sandboxId")))


def _skill(run: Run, event: Event, fields: p.Fields) -> Run:
    name = p.text(fields, "skill")
    left = tuple(each for each in run.starting if each != name)
    starting = (*left, name) if event.type == "skillStarting" else left
    several = len(starting) > 1
    verb = "start" if several else "starts"
    note = f"skill{'s' if several else ''} {', '.join(starting)} {verb}" if starting else ""
    return replace(run, starting=starting, note=note)


def _noted(run: Run, _event: Event, fields: p.Fields) -> Run:
    return replace(run, note=p.text(fields, "note"))


def _compacted(run: Run, event: Event, fields: p.Fields) -> Run:
    done = event.type == "contextCompacted"
    note = "its history was compacted" if done else f"its history was not compacted: {p.text(fields, 'message')}"
    return replace(run, note=note, usage=run.usage + p.usage(fields))


def _inherited(run: Run, event: Event, fields: p.Fields) -> Run:
    return replace(_start(run, event, p.member(fields, "start")), query=run.query)


def _denied(run: Run, _event: Event, fields: p.Fields) -> Run:
    return replace(run, note=f"egress to {p.text(fields, 'host')} was denied: {p.text(fields, 'reason')}")


def _ask(run: Run, event: Event, fields: p.Fields) -> Run:
    """New questions; one that was asked before (a run that was taken up again) is not asked twice."""
    known = {question.id for question in run.questions}
    new = tuple(question for question in p.questions(event, fields) if question.id not in known)
    return _answered(replace(run, questions=run.questions + new), event, fields)


def _close(run: Run, event: Event, fields: p.Fields) -> Run:
    closed = f"{event.run_id}.{p.text(fields, 'id')}"
    left = tuple(question for question in run.questions if question.id != closed)
    if p.text(fields, "kind") == QuestionKind.TOOL.value:  # the answer is the call's result
        answer = {"callId": p.text(fields, "callId"), "content": [{"type": "text", "text": p.text(fields, "content")}]}
        run = _answered(run, event, {"results": [answer]})
    return replace(run, questions=left, phase="calling" if run.phase == "asking" and not left else run.phase)


def _attempt(run: Run, event: Event, fields: p.Fields) -> Run:
    own = {"callId": p.text(fields, "callId"), "content": []}
    return _answered(run, event, {"results": [*p.items(fields, "results"), own]})


def _tool_message(run: Run, event: Event, fields: p.Fields) -> Run:
    return replace(_answered(run, event, fields), questions=())


def _next_step(run: Run, _event: Event, fields: p.Fields) -> Run:
    return replace(run, step=p.number(fields, "step") or run.step, questions=())


def _complete(run: Run, _event: Event, fields: p.Fields) -> Run:
    total = p.usage(fields)
    return replace(run, detail=p.text(fields, "text")[:RESULT_KEPT], usage=total if total != Usage() else run.usage)


def _stop(run: Run, event: Event, fields: p.Fields) -> Run:
    return _ended(run, event, p.text(fields, "message") or "cancelled")


def _too_many_steps(run: Run, event: Event, fields: p.Fields) -> Run:
    return _ended(run, event, f"the {p.text(fields, 'scope')}'s limit of {p.number(fields, 'limit')} steps is reached")


def _over_budget(run: Run, event: Event, fields: p.Fields) -> Run:
    return _ended(run, event, f"the job's limit of {p.limit(fields)} is reached")


def _ended(run: Run, event: Event, detail: str) -> Run:
    """What was under way when the run ended has no result and never will."""
    calls = tuple(
        call if call.ended_at else replace(call, ended_at=event.timestamp, is_error=True) for call in run.calls
    )
    return replace(run, detail=detail, calls=calls)


def _retry(run: Run, _event: Event, fields: p.Fields) -> Run:
    turn = p.member(fields, "turn")
    return replace(
        run,
        note=f"tries again: {p.text(fields, 'message') or p.text(fields, 'reason')}",
        usage=run.usage + p.usage(turn),
        stream=Stream(),
    )


def _turn(run: Run, event: Event, fields: p.Fields) -> Run:
    turn = p.member(fields, "turn")
    new = tuple(_new_call(run, event, call) for call in p.parts(turn, "parts", "toolCall"))
    return replace(
        run,
        usage=run.usage + p.usage(turn),
        calls=(*run.calls, *new)[-max(CALLS_KEPT, len(new)) :],
        calls_total=run.calls_total + len(new),
        said=p.joined(turn, "parts")[-TEXT_KEPT:],
        stream=Stream(),
        note="",
    )


def _new_call(run: Run, event: Event, call: p.Fields) -> ToolCall:
    name = p.text(call, "name")
    return ToolCall(
        id=p.text(call, "callId"),
        name=name,
        arguments=p.arguments(call),
        step=event.step_number,
        started_at=event.timestamp,
        expert=run.delegates.get(name, ""),
    )


def _answered(run: Run, event: Event, fields: p.Fields) -> Run:
    results = {p.text(result, "callId"): result for result in p.items(fields, "results")}
    calls = tuple(
        _with_result(call, results[call.id], event) if call.id in results and not call.ended_at else call
        for call in run.calls
    )
    return replace(run, calls=calls)


def _with_result(call: ToolCall, result: p.Fields, event: Event) -> ToolCall:
    is_error, text = bool(result.get("isError")), p.joined(result, "content")
    shown = p.error_words(text) if is_error else text
    return replace(call, ended_at=event.timestamp, is_error=is_error, result=shown[:RESULT_KEPT])


def _delegate(run: Run, event: Event, fields: p.Fields) -> Run:
    run = _answered(run, event, fields)
    experts = {p.text(call, "callId"): p.text(call, "expertKey") for call in p.items(fields, "calls")}
    return replace(run, calls=tuple(replace(call, expert=experts.get(call.id, call.expert)) for call in run.calls))


_CHANGES: Final[Mapping[str, Callable[[Run, Event, p.Fields], Run]]] = {
    "startRun": _start,
    "startGeneration": _quiet,
    "sandboxAssigned": _sandbox,
    "skillStarting": _skill,
    "skillConnected": _skill,
    "skillDisconnected": _skill,
    "reasoningMapped": _noted,
    "contextCompacted": _compacted,
    "compactionFailed": _compacted,
    "historyInherited": _inherited,
    "egressDenied": _denied,
    "retry": _retry,
    "callTools": _turn,
    "callDelegate": _delegate,
    "callInteractiveTool": _ask,
    "approvalRequested": _ask,
    "elicitationRequested": _ask,
    "questionAnswered": _close,
    "approvalDecided": _close,
    "attemptCompletion": _attempt,
    "resolveToolResults": _answered,
    "finishToolCall": _tool_message,
    "resumeToolCalls": _answered,
    "continueToNextStep": _next_step,
    "completeRun": _complete,
    "stopRunByError": _stop,
    "stopRunByCancel": _stop,
    "stopRunByExceededMaxSteps": _too_many_steps,
    "stopRunByExceededBudget": _over_budget,
}


def fold_run_piece(run: Run, piece: StreamPiece) -> Run:
    """The run after a piece of text; a run that ended stays as it is."""
    if run.outcome or piece.type not in {"streamReasoning", "streamRunResult", "streamToolOutput"}:
        return run
    if piece.type != "streamToolOutput":
        return replace(run, stream=_extended(run.stream, piece))
    calls = tuple(
        replace(call, output=_extended(call.output, piece)) if call.id == piece.call_id else call for call in run.calls
    )
    return replace(run, calls=calls)


def _extended(stream: Stream, piece: StreamPiece) -> Stream:
    """Pieces may repeat what was seen, or leave out a part of a text that was joined late."""
    raw = piece.delta.encode("utf-8", "replace")
    if stream.id != piece.stream_id:
        stream = Stream(piece.stream_id, piece.type)
    known = stream.size - piece.offset
    if known > 0:
        raw = raw[known:]
    gap = "…" if known < 0 else ""
    text = stream.text + gap + raw.decode("utf-8", "ignore")
    size = max(stream.size, piece.offset + len(piece.delta.encode("utf-8", "replace")))
    return replace(stream, text=text[-TEXT_KEPT:], size=size)
