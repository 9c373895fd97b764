"""What an event says, in words for people: for the log as a job runs, and for reading it afterwards. Pure.

Whatever comes from an event is untrusted and leaves here cleaned, without line ends. An event that is not known here
says its members, so that a later daemon's are seen too.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from perstackctl.client.questions import Question, QuestionKind
from perstackctl.client.values import Event, Usage
from perstackctl.output import count, elapsed
from perstackctl.terminal import line
from perstackctl.watch import payload as p
from perstackctl.watch.run_trace import Run, ToolCall
from perstackctl.watch.trace import Trace

LONG: Final = 160
SHORT: Final = 80
LONGEST: Final = 400

# What was folded, the event, its members: the words of its line, or of several.
_Words = Callable[[Trace, Run, Event, p.Fields], Iterator[str]]


def words(trace: Trace, event: Event, fields: p.Fields) -> Iterator[str]:
    """The sentences of an event; `trace` has it folded already."""
    run = trace.runs.get(event.run_id)
    if run is None:
        yield from _of_job(trace, event, fields)
        return
    yield from _OF_RUN.get(event.type, _unknown)(trace, run, event, fields)


def _of_job(trace: Trace, event: Event, fields: p.Fields) -> Iterator[str]:
    match event.type:
        case "jobCreated":
            model = line(f"{trace.provider}/{trace.model}")
            place = line(trace.workspace, SHORT)
            yield f"job {event.job_id} created: {line(trace.expert)}, {model}, workspace {place}"
        case "jobQueued":
            yield f"job waits, {line(trace.queue, LONG)}"
        case "jobFinished":
            took = elapsed(trace.last_at - trace.started_at)
            why = f": {line(trace.message, LONGEST)}" if trace.message else ""
            yield f"job {event.job_id} {line(trace.outcome)} after {took}, {tokens(trace.usage)}{why}"
        case "jobAdmitted":
            yield "job begins"
        case "jobPaused":
            yield "job is paused"
        case "jobResumed":
            yield "job goes on"
        case _:
            yield from _generic(event, fields)


def _generic(event: Event, fields: p.Fields) -> Iterator[str]:
    members = {name: value for name, value in fields.items() if name != "type"}
    yield f"{line(event.type, SHORT)} {line(p.words(members), LONG)}".rstrip()


def _unknown(_trace: Trace, _run: Run, event: Event, fields: p.Fields) -> Iterator[str]:
    yield from _generic(event, fields)


def tokens(usage: Usage) -> str:
    """The tokens of a run or a job for people."""
    cached = f" ({count(usage.cached_input_tokens)} cached)" if usage.cached_input_tokens else ""
    return f"{count(usage.input_tokens)}{cached} tokens in, {count(usage.output_tokens)} out"


def _started(_trace: Trace, run: Run, _event: Event, _fields: p.Fields) -> Iterator[str]:
    yield f"started: {line(run.query, SHORT)}"


def _sandbox(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    role = p.text(fields, "role")
    use = f" for {line(role)}" if role and role != "expert" else ""
    yield f"got sandbox {line(p.text(fields, 'sandboxId'))} ({line(p.text(fields, 'template'))}){use}"


def _released(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    cause, detail = line(p.text(fields, "cause")), line(p.text(fields, "detail"), LONG)
    if cause != "finished":
        yield f"lost its sandbox ({cause}){': ' + detail if detail else ''}"


def _secret(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    yield f"gave {line(p.text(fields, 'name'))} to {line(p.text(fields, 'skill')) or 'the shell'}"


def _connected(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    tools = fields.get("tools")
    number = len(tools) if isinstance(tools, list) else 0
    yield f"skill {line(p.text(fields, 'skill'))} is connected with {number} tool{'' if number == 1 else 's'}"


def _stderr(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    yield f"skill {line(p.text(fields, 'skill'))} wrote: {line(p.text(fields, 'text'), LONG)}"


def _disconnected(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    yield f"skill {line(p.text(fields, 'skill'))} is gone: {line(p.text(fields, 'detail'), LONG)}"


_OPENED_BY: Final[Mapping[str, str]] = {
    "host_not_allowed": "; allow it with --allow-domain {host}",
    "egress_not_permitted": "; the daemon's operator permits hosts with egress.allow_hosts",
    "address_not_global": "; the daemon's operator opens its address with egress.allow_addresses",
    "address_is_this_host": "; the daemon's operator opens its address with egress.allow_addresses",
}
"""What lets a connection through that was refused for a reason; the others are not to be opened."""


def _denied(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    host, port = line(p.text(fields, "host"), SHORT), p.number(fields, "port")
    reason = p.text(fields, "reason")
    remedy = _OPENED_BY.get(reason, "").format(host=host)
    yield f"was denied {f'{host}:{port}' if host else 'a connection'} ({line(reason)}){remedy}"


def _asks_model(_trace: Trace, run: Run, _event: Event, _fields: p.Fields) -> Iterator[str]:
    yield f"asks {line(run.model) or 'the model'}"


def _retry(_trace: Trace, run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    yield f"{line(run.note, LONG)} (in {elapsed(p.number(fields, 'delayMs'))})"


def _turn(_trace: Trace, run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    turn = p.member(fields, "turn")
    said = line(p.joined(turn, "parts"), LONG)
    if said:
        yield f"says: {said}"
    for call in p.parts(turn, "parts", "toolCall"):
        if p.text(call, "name") not in run.delegates:  # their line comes with the delegation
            yield f"calls {line(p.text(call, 'name'))} {line(p.arguments(call), LONG)}".rstrip()


def _results(_trace: Trace, run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    for result in p.items(fields, "results"):
        call = run.call(p.text(result, "callId"))
        if call is not None and not call.expert:
            yield _result(call)


def _result(call: ToolCall) -> str:
    took = elapsed(call.ended_at - call.started_at)
    verdict = "failed" if call.is_error else "done"
    shown = line(call.result, SHORT)
    return f"{line(call.name)} {verdict} in {took}{': ' + shown if shown else ''}"


def _delegates(trace: Trace, run: Run, event: Event, fields: p.Fields) -> Iterator[str]:
    yield from _results(trace, run, event, fields)
    for call in p.items(fields, "calls"):
        yield f"delegates to {line(p.text(call, 'expertKey'))}: {line(p.text(call, 'query'), SHORT)}"


def _asked(trace: Trace, run: Run, event: Event, fields: p.Fields) -> Iterator[str]:
    yield from _results(trace, run, event, fields)
    for question in p.questions(event, fields):
        yield f"{question_words(question)} [{line(question.short_id, 24)}]"


def question_words(question: Question) -> str:
    """A question in one line: who asks what, the arguments shortened."""
    what = f"{line(question.skill)}.{line(question.tool)}" if question.skill else line(question.tool)
    message, given = line(question.message, SHORT), line(p.words(question.arguments), LONG)
    match question.kind:
        case QuestionKind.APPROVAL:
            return f"asks for approval: {what} {given}".rstrip()
        case QuestionKind.ELICITATION:
            return f"{what} asks: {message}"
        case _:
            return f"asks ({what}): {message}" if message else f"asks: {what} {given}".rstrip()


def _answer(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    said, which = line(p.text(fields, "content"), SHORT), line(p.text(fields, "id"), 24)
    match p.text(fields, "action"):
        case "decline":
            yield f"a person declined to answer [{which}]"
        case "cancel":
            yield f"a person cancelled the question [{which}]"
        case _:
            yield f"a person answered: {said} [{which}]"


def _decision(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    why, which = line(p.text(fields, "reason"), SHORT), line(p.text(fields, "id"), 24)
    verdict = "allowed" if fields.get("approved") is True else "did not allow"
    yield f"a person {verdict} the call{': ' + why if why else ''} [{which}]"


def _tools_changed(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    sets = ((sign, p.texts(fields, key)) for sign, key in (("+", "added"), ("-", "removed"), ("~", "changed")))
    names = " ".join(f"{sign}{name}" for sign, tools in sets for name in tools)
    yield f"skill {line(p.text(fields, 'skill'))} now offers other tools, not used in this run: {line(names, LONG)}"


def _renamed(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    tool = f"{line(p.text(fields, 'skill'))}.{line(p.text(fields, 'tool'))}"
    yield f"the model knows {tool} as {line(p.text(fields, 'shown'))}"


def _mapped(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    yield f"reasoning: {line(p.text(fields, 'note'), LONG)}"


def _compacted(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    before = p.number(fields, "beforeTokens")
    size = f" of about {count(before)} tokens" if before > 0 else ""
    yield f"compacted its history{size} to a summary: {line(p.text(fields, 'summary'), LONG)}"


def _not_compacted(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    gives_up = fields.get("givenUp") is True
    then = "it stays as it is" if gives_up else f"tries again in {elapsed(p.number(fields, 'delayMs'))}"
    yield f"could not compact its history ({then}): {line(p.text(fields, 'message'), LONG)}"


def _inherited(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    of = f"{line(p.text(fields, 'parentRunId'), 32)} of job {line(p.text(fields, 'parentJobId'), 32)}"
    yield f"goes on from run {of}, {len(p.items(fields, 'messages')):,} messages"


def _takes_over(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    yield f"runner {line(p.text(fields, 'runnerVersion'), 24)} is ready"


def _starts_skill(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    yield f"starts skill {line(p.text(fields, 'skill'))}"


def _reached(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    host, port = line(p.text(fields, "host"), SHORT), p.number(fields, "port")
    up, down = p.number(fields, "bytesUp"), p.number(fields, "bytesDown")
    took = elapsed(p.number(fields, "durationMs"))
    reason = line(p.text(fields, "reason"), SHORT)
    cut = f"; it was cut: {reason}" if reason else ""
    yield f"was connected to {host}:{port} for {took}, {up:,} bytes up, {down:,} down{cut}"


def _next_step(_trace: Trace, _run: Run, _event: Event, fields: p.Fields) -> Iterator[str]:
    yield f"goes on with step {p.number(fields, 'step')}"


def _resumes(trace: Trace, run: Run, event: Event, fields: p.Fields) -> Iterator[str]:
    yield from _results(trace, run, event, fields)
    calls = (run.call(call_id) for call_id in p.texts(fields, "callIds"))
    names = ", ".join(line(call.name) for call in calls if call is not None)
    yield f"makes its calls{': ' + line(names, SHORT) if names else ''}"


def _all_answered(_trace: Trace, _run: Run, _event: Event, _fields: p.Fields) -> Iterator[str]:
    yield "found all its calls answered"


def _gives_up_sandbox(_trace: Trace, _run: Run, event: Event, _fields: p.Fields) -> Iterator[str]:
    whom = "a person" if event.type == "stopRunByInteractiveTool" else "its delegates"
    yield f"gives up its sandbox while it waits for {whom}"


def _ended(_trace: Trace, run: Run, _event: Event, _fields: p.Fields) -> Iterator[str]:
    took = elapsed(run.ended_at - run.started_at)
    steps = f"{run.step} step{'' if run.step == 1 else 's'}"
    why = f": {line(run.detail, LONG)}" if run.outcome != "completed" and run.detail else ""
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
    "callInteractiveTool": _asked,
    "approvalRequested": _asked,
    "elicitationRequested": _asked,
    "questionAnswered": _answer,
    "approvalDecided": _decision,
    "skillToolsChanged": _tools_changed,
    "toolRenamed": _renamed,
    "reasoningMapped": _mapped,
    "contextCompacted": _compacted,
    "compactionFailed": _not_compacted,
    "historyInherited": _inherited,
    "initializeRuntime": _takes_over,
    "skillStarting": _starts_skill,
    "proxyAccess": _reached,
    "continueToNextStep": _next_step,
    "resumeToolCalls": _resumes,
    "finishAllToolCalls": _all_answered,
    "stopRunByInteractiveTool": _gives_up_sandbox,
    "stopRunByDelegate": _gives_up_sandbox,
    "resolveToolResults": _results,
    "attemptCompletion": _results,
    "finishToolCall": _results,
    "completeRun": _ended,
    "stopRunByError": _ended,
    "stopRunByCancel": _ended,
    "stopRunByExceededMaxSteps": _ended,
    "stopRunByExceededBudget": _ended,
}
