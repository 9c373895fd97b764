"""A log: one line per thing as it happens, for terminals without cursor movement, for CI and for reading afterwards."""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TextIO

from perstackctl.client.values import Batch, Event, Usage
from perstackctl.output import count, elapsed, note
from perstackctl.terminal import clean, line
from perstackctl.watch import payload as p
from perstackctl.watch.run_trace import Run, ToolCall
from perstackctl.watch.trace import Trace, fold_event, fold_piece

_LONG: Final = 160
_SHORT: Final = 80

# What was folded, the event, its members: the words of its line, or of several.
_Words = Callable[[Trace, Run, Event, p.Fields], Iterator[str]]


def lines(trace: Trace, event: Event) -> Iterator[str]:
    """The lines of an event; `trace` has it folded already. Events that say nothing new to a reader have none."""
    fields = p.fields_of(event)
    stamp = f"{(event.timestamp - trace.started_at) / 1000:9.3f}s"
    if not event.run_id:
        yield from (f"{stamp}  {words}" for words in _of_job(trace, event, fields))
        return
    run, words_of = trace.runs[event.run_id], _OF_RUN.get(event.type)
    if words_of is None:
        return
    indent = "  " * trace.depth(run.id)
    step = f" #{event.step_number}" if event.step_number else ""
    yield from (f"{stamp}  {indent}{line(run.expert)}{step}: {words}" for words in words_of(trace, run, event, fields))


def _of_job(trace: Trace, event: Event, fields: p.Fields) -> Iterator[str]:
    match event.type:
        case "jobCreated":
            model = line(f"{trace.provider}/{trace.model}")
            place = line(trace.workspace, _SHORT)
            yield f"job {event.job_id} created: {line(trace.expert)}, {model}, workspace {place}"
        case "jobQueued":
            yield f"job waits, {line(trace.queue, _LONG)}"
        case "jobFinished":
            took = elapsed(trace.last_at - trace.started_at)
            why = f": {line(trace.message, 400)}" if trace.message else ""
            yield f"job {event.job_id} {line(trace.outcome)} after {took}, {tokens(trace.usage)}{why}"
        case _:
            return


def tokens(usage: Usage) -> str:
    """The tokens of a run or a job for people."""
    cached = f" ({count(usage.cached_input_tokens)} cached)" if usage.cached_input_tokens else ""
    return f"{count(usage.input_tokens)}{cached} tokens in, {count(usage.output_tokens)} out"


def _started(_trace: Trace, run: Run, _event: Event, _fields: p.Fields) -> Iterator[str]:
    yield f"started: {line(run.query, _SHORT)}"


def _sandbox(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    role = p.text(fields, "role")
    use = f" for {line(role)}" if role and role != "expert" else ""
    yield f"got sandbox {line(p.text(fields, 'sandboxId'))} ({line(p.text(fields, 'template'))}){use}"


def _released(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    cause, detail = line(p.text(fields, "cause")), line(p.text(fields, "detail"), _LONG)
    if cause != "finished":
        yield f"lost its sandbox ({cause}){': ' + detail if detail else ''}"


def _secret(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    yield f"gave {line(p.text(fields, 'name'))} to {line(p.text(fields, 'skill')) or 'the shell'}"


def _connected(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    tools = fields.get("tools")
    number = len(tools) if isinstance(tools, list) else 0
    yield f"skill {line(p.text(fields, 'skill'))} is connected with {number} tools"


def _stderr(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    yield f"skill {line(p.text(fields, 'skill'))} wrote: {line(p.text(fields, 'text'), _LONG)}"


def _disconnected(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    yield f"skill {line(p.text(fields, 'skill'))} is gone: {line(p.text(fields, 'detail'), _LONG)}"


def _denied(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    host, port = line(p.text(fields, "host"), _SHORT), p.number(fields, "port")
    yield f"was denied {host}:{port} ({line(p.text(fields, 'reason'))}); allow it with --allow-domain {host}"


def _asks_model(_trace: Trace, run: Run, _event: Event, _fields: p.Fields) -> Iterator[str]:
    yield f"asks {line(run.model) or 'the model'}"


def _retry(_trace: Trace, run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    yield f"{line(run.note, _LONG)} (in {elapsed(p.number(fields, 'delayMs'))})"


def _turn(_trace: Trace, run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    turn = p.member(fields, "turn")
    said = line(p.joined(turn, "parts"), _LONG)
    if said:
        yield f"says: {said}"
    for call in p.parts(turn, "parts", "toolCall"):
        if p.text(call, "name") not in run.delegates:  # their line comes with the delegation
            yield f"calls {line(p.text(call, 'name'))} {line(p.arguments(call), _LONG)}".rstrip()


def _results(_trace: Trace, run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    for result in p.items(fields, "results"):
        call = run.call(p.text(result, "callId"))
        if call is not None and not call.expert:
            yield _result(call)


def _result(call: ToolCall) -> str:
    took = elapsed(call.ended_at - call.started_at)
    verdict = "failed" if call.is_error else "done"
    shown = line(call.result, _SHORT)
    return f"{line(call.name)} {verdict} in {took}{': ' + shown if shown else ''}"


def _delegates(trace: Trace, run: Run, event: Event, fields: p.Fields) -> Iterator[str]:
    yield from _results(trace, run, event, fields)
    for call in p.items(fields, "calls"):
        yield f"delegates to {line(p.text(call, 'expertKey'))}: {line(p.text(call, 'query'), _SHORT)}"


def _question(_trace: Trace, run: Run, _event: Event, _fields: p.Fields) -> Iterator[str]:
    yield line(run.note, _LONG)


def _ended(_trace: Trace, run: Run, _event: Event, _fields: p.Fields) -> Iterator[str]:
    took = elapsed(run.ended_at - run.started_at)
    steps = f"{run.step} step{'' if run.step == 1 else 's'}"
    why = f": {line(run.detail, _LONG)}" if run.outcome != "completed" and run.detail else ""
    yield f"{run.outcome} after {took}, {steps}, {tokens(run.usage)}{why}"


_OF_RUN: Final[Mapping[str, _Words]] = {
    "startRun": _started,
    "sandboxAssigned": _sandbox,
    "sandboxReleased": _released,
    "secretReleased": _secret,
    "skillConnected": _connected,
    "skillStderr": _stderr,
    "skillDisconnected": _disconnected,
    "egressDenied": _denied,
    "startGeneration": _asks_model,
    "retry": _retry,
    "callTools": _turn,
    "callDelegate": _delegates,
    "callInteractiveTool": _question,
    "resolveToolResults": _results,
    "attemptCompletion": _results,
    "finishToolCall": _results,
    "completeRun": _ended,
    "stopRunByError": _ended,
    "stopRunByCancel": _ended,
    "stopRunByExceededMaxSteps": _ended,
    "stopRunByExceededBudget": _ended,
}


class PlainLog:
    """The display that prints `lines`, and the answer below them."""

    interval = 1.0

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout

    def paint(self, before: Trace, batch: Batch) -> Trace:
        for event in batch.events:
            before = fold_event(before, event)
            for text in lines(before, event):
                self._out.write(text + "\n")
        self._out.flush()
        for piece in batch.pieces:
            before = fold_piece(before, piece)
        return before

    def tick(self, trace: Trace, now: int) -> None:
        pass

    def notice(self, text: str) -> None:
        note(text)

    def close(self, trace: Trace) -> None:
        if trace.answer:
            self._out.write(f"\n{clean(trace.answer)}\n")
        self._out.flush()
