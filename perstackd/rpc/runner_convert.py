"""Between runner.proto and `domain.session`. What comes from a sandbox is bounded and checked here, and only here."""

import json
from typing import Final, assert_never

from perstack.v1 import runner_pb2 as pb

from perstackd.domain.guest_view import MAX_LINE, MAX_LINES
from perstackd.domain.messages import BlobPart, JsonValue, TextPart, ToolResultPart, ToolSpec
from perstackd.domain.repair import repaired
from perstackd.domain.session import (
    Ask,
    Assign,
    BlobChunk,
    CancelCalls,
    Elicit,
    ElicitAnswer,
    Failure,
    Finish,
    Hello,
    NextTurn,
    Order,
    Probe,
    ProbeResult,
    Progress,
    Ready,
    Refused,
    SkillOrder,
    SkillPhase,
    SkillReport,
    StartMode,
    ToolResults,
    TurnOrder,
)
from perstackd.domain.tool_calls import MAX_CALLS

MAX_TOOLS: Final = 1000
MAX_RESULTS: Final = MAX_CALLS
MAX_PARTS: Final = 64
MAX_NAME: Final = 256
MAX_TEXT: Final = 8192
MAX_CHUNK: Final = 256 << 10
MAX_PROBE: Final = 4096
MAX_MESSAGE: Final = 4096
MAX_SCHEMA: Final = 16 << 10

_PHASES: Final = {
    pb.SkillState.STATE_STARTING: SkillPhase.STARTING,
    pb.SkillState.STATE_CONNECTED: SkillPhase.CONNECTED,
    pb.SkillState.STATE_FAILED: SkillPhase.FAILED,
    pb.SkillState.STATE_DISCONNECTED: SkillPhase.DISCONNECTED,
    pb.SkillState.STATE_STDERR: SkillPhase.STDERR,
    pb.SkillState.STATE_TOOLS_CHANGED: SkillPhase.TOOLS_CHANGED,
}


_STARTS: Final = {
    StartMode.FIRST: pb.START_MODE_FIRST,
    StartMode.BESIDE: pb.START_MODE_BESIDE,
    StartMode.AT_CALL: pb.START_MODE_AT_CALL,
}


class MalformedError(ValueError):
    """A message that no runner of ours sends; the sentence says what about it."""


def ask(message: pb.FromRunner) -> Ask:  # noqa: C901, PLR0911 - one case a message
    """A runner's message as a value.

    Raises:
        MalformedError: it is empty, or larger in some part than the protocol allows.
    """
    match message.WhichOneof("message"):
        case "hello":
            return _hello(message.hello)
        case "probe_result":
            return _probe_result(message.probe_result)
        case "ready":
            return Ready(_bounded(message.ready.workspace_path, MAX_NAME, "workspace_path"))
        case "skill_state":
            return _skill_report(message.skill_state)
        case "next_turn":
            return NextTurn(message.next_turn.step)
        case "tool_results":
            return ToolResults(message.tool_results.step, _results(message.tool_results))
        case "progress":
            progress = message.progress
            return Progress(_bounded(progress.call_id, MAX_NAME, "call_id"), progress.offset, progress.delta)
        case "blob_chunk":
            return _chunk(message.blob_chunk)
        case "elicit":
            return _elicit(message.elicit)
        case "failure":
            return Failure(message.failure.reason[:MAX_NAME], message.failure.message[:MAX_TEXT])
        case _:
            raise MalformedError("a message without content")


def order(value: Order) -> pb.ToRunner:
    """An order as a message."""
    match value:
        case Probe(path=path):
            return pb.ToRunner(probe=pb.Probe(path=path))
        case Assign():
            return pb.ToRunner(assign=_assign(value))
        case TurnOrder(step=step, calls=calls):
            routed = [
                pb.ToolCall(call_id=call.call_id, skill=call.skill, tool=call.tool, arguments=call.arguments.encode())
                for call in calls
            ]
            return pb.ToRunner(turn=pb.Turn(step=step, calls=routed))
        case Finish(reason=reason):
            return pb.ToRunner(finish=pb.Finish(reason=reason))
        case CancelCalls(call_ids=call_ids, reason=reason):
            return pb.ToRunner(cancel_calls=pb.CancelCalls(call_ids=call_ids, reason=reason))
        case Refused(reason=reason):
            return pb.ToRunner(refused=pb.Refused(reason=reason))
        case ElicitAnswer(elicitation=number, action=action, content=content):
            answer = pb.Elicited(elicitation_id=number, action=action, content=content.encode())
            return pb.ToRunner(elicited=answer)
        case _:
            assert_never(value)


def _assign(value: Assign) -> pb.Assign:
    return pb.Assign(
        expert_key=value.expert_key,
        workspace_path=value.workspace_path,
        workspace_read_only=value.workspace_read_only,
        skills=[_skill(skill) for skill in value.skills],
        base_tools=value.base_tools,
        exec_env=dict(value.exec_env),
        limits=pb.RunnerLimits(
            tool_timeout_ms=value.tool_timeout_ms,
            skill_start_timeout_ms=value.skill_start_timeout_ms,
            inline_result_bytes=value.inline_result_bytes,
            result_bytes=value.result_bytes,
        ),
        step=value.step,
    )


def _skill(skill: SkillOrder) -> pb.SkillSpec:
    spec = pb.SkillSpec(
        name=skill.name,
        pick=skill.pick,
        omit=skill.omit,
        lazy_init=skill.start is StartMode.AT_CALL,
        tool_timeout_ms=skill.tool_timeout_ms,
        start_timeout_ms=skill.start_timeout_ms,
        start=_STARTS[skill.start],
        private_directories=skill.private,
    )
    if skill.endpoint is None:
        spec.stdio.CopyFrom(pb.StdioServer(command=skill.command, env=dict(skill.env)))
    else:
        headers = dict(skill.endpoint.headers)
        spec.remote.CopyFrom(
            pb.RemoteServer(transport=skill.endpoint.transport, endpoint=skill.endpoint.url, headers=headers)
        )
    return spec


def _elicit(elicit: pb.Elicit) -> Elicit:
    if len(elicit.schema) > MAX_SCHEMA:
        raise MalformedError(f"a question's schema of {len(elicit.schema)} bytes")
    return Elicit(
        call_id=_bounded(elicit.call_id, MAX_NAME, "call_id"),
        skill=_bounded(elicit.skill, MAX_NAME, "skill"),
        elicitation=elicit.elicitation_id,
        message=repaired(elicit.message[:MAX_MESSAGE]),
        schema=_schema("elicitation", elicit.schema),
    )


def _hello(hello: pb.Hello) -> Hello:
    return Hello(
        hello.protocol_version,
        _bounded(hello.runner_version, MAX_NAME, "runner_version"),
        _bounded(hello.python_version, MAX_NAME, "python_version"),
        hello.landlock_abi,
        hello.dumpable,
        _bounded(hello.session_token, MAX_NAME, "session_token"),
        tuple(repaired(line[:MAX_LINE]) for line in hello.self_view[:MAX_LINES]),
    )


def _probe_result(result: pb.ProbeResult) -> ProbeResult:
    if len(result.content) > MAX_PROBE:
        raise MalformedError(f"a probe result of {len(result.content)} bytes")
    return ProbeResult(result.content if result.found else None)


def _skill_report(state: pb.SkillState) -> SkillReport:
    phase = _PHASES.get(state.state)
    if phase is None:
        raise MalformedError("a skill state without a state")
    if len(state.tools) > MAX_TOOLS:
        raise MalformedError(f"a skill with {len(state.tools)} tools; at most {MAX_TOOLS} are taken")
    return SkillReport(
        _bounded(state.skill, MAX_NAME, "skill"),
        phase,
        tuple(_tool(tool) for tool in state.tools),
        state.detail[:MAX_TEXT],
        state.server_name[:MAX_NAME],
        state.server_version[:MAX_NAME],
    )


def _tool(tool: pb.ToolSpec) -> ToolSpec:
    name = _bounded(tool.name, MAX_NAME, "tool name")
    return ToolSpec(
        name, tool.description[:MAX_TEXT], _schema(name, tool.input_schema), tool.read_only, tool.idempotent
    )


def _schema(name: str, document: bytes) -> dict[str, JsonValue]:
    try:
        schema = json.loads(document)
        json.dumps(schema, ensure_ascii=False, allow_nan=False).encode()  # what is no JSON on the way out: NaN, halves
    except (ValueError, RecursionError) as error:  # of surrogate pairs
        raise MalformedError(f"the input schema of the tool {name!r} is not JSON") from error
    if not isinstance(schema, dict):
        raise MalformedError(f"the input schema of the tool {name!r} is not an object")
    return schema


def _results(message: pb.ToolResults) -> tuple[ToolResultPart, ...]:
    if len(message.results) > MAX_RESULTS:
        raise MalformedError(f"{len(message.results)} results in one turn")
    return tuple(_result(result) for result in message.results)


def _result(result: pb.ToolResult) -> ToolResultPart:
    if len(result.content) > MAX_PARTS:
        raise MalformedError(f"a result of {len(result.content)} parts")
    call_id = _bounded(result.call_id, MAX_NAME, "call_id")
    return ToolResultPart(call_id, tuple(_part(part) for part in result.content), result.is_error)


def _part(part: pb.ContentPart) -> TextPart | BlobPart:
    match part.WhichOneof("kind"):
        case "text":
            return TextPart(part.text)
        case "blob":
            blob = part.blob
            digest = _bounded(blob.digest, MAX_NAME, "digest")
            return BlobPart(digest, blob.size, _bounded(blob.media_type, MAX_NAME, "media_type"))
        case "structured":
            return TextPart(part.structured.decode(errors="replace"))
        case _:
            raise MalformedError("a result part without content")


def _chunk(chunk: pb.BlobChunk) -> BlobChunk:
    if len(chunk.data) > MAX_CHUNK:
        raise MalformedError(f"a blob chunk of {len(chunk.data)} bytes")
    return BlobChunk(_bounded(chunk.digest, MAX_NAME, "digest"), chunk.offset, chunk.data, chunk.last)


def _bounded(text: str, limit: int, what: str) -> str:
    if len(text) > limit:
        raise MalformedError(f"a {what} of {len(text)} characters")
    return text
