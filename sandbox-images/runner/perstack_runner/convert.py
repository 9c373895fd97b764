"""Between protobuf and the runner's own values; nothing else in the runner knows a generated class but link.py."""

from typing import assert_never

from perstack.v1 import runner_pb2 as pb

from perstack_runner import PROTOCOL_VERSION, VERSION
from perstack_runner.messages import (
    Acknowledged,
    Ask,
    Assign,
    Blob,
    BlobChunk,
    BlobRef,
    Call,
    CancelCalls,
    Elicit,
    Elicited,
    Failure,
    Finish,
    Hello,
    Limits,
    NextTurn,
    Order,
    Part,
    Probe,
    ProbeResult,
    Progress,
    Ready,
    Refused,
    Rejected,
    Remote,
    Result,
    SkillOrder,
    SkillState,
    Structured,
    Text,
    ToolResults,
    Turn,
    Welcome,
)

_STATES = {
    "starting": pb.SkillState.STATE_STARTING,
    "connected": pb.SkillState.STATE_CONNECTED,
    "failed": pb.SkillState.STATE_FAILED,
    "disconnected": pb.SkillState.STATE_DISCONNECTED,
    "stderr": pb.SkillState.STATE_STDERR,
    "toolsChanged": pb.SkillState.STATE_TOOLS_CHANGED,
}
_STARTS = {pb.START_MODE_BESIDE: "beside", pb.START_MODE_AT_CALL: "atCall"}


def hello_to_pb(hello: Hello, session_token: str) -> pb.FromRunner:
    """The first message of a stream; its counter is 0."""
    return pb.FromRunner(
        hello=pb.Hello(
            protocol_version=PROTOCOL_VERSION,
            runner_version=VERSION,
            python_version=hello.python_version,
            landlock_abi=hello.landlock_abi,
            dumpable=hello.dumpable,
            session_token=session_token,
            self_view=hello.self_view,
        )
    )


def ask_to_pb(ask: Ask, counter: int) -> pb.FromRunner:
    """A message with its counter, 0 for Progress. Raises ValueError on a result whose blob did not go up before."""
    match ask:
        case ProbeResult(content=content):
            found = content is not None
            return pb.FromRunner(counter=counter, probe_result=pb.ProbeResult(content=content or b"", found=found))
        case Ready(workspace_path=path):
            return pb.FromRunner(counter=counter, ready=pb.Ready(workspace_path=path))
        case SkillState():
            return pb.FromRunner(counter=counter, skill_state=_skill_state(ask))
        case NextTurn(step=step):
            return pb.FromRunner(counter=counter, next_turn=pb.NextTurn(step=step))
        case ToolResults(step=step, results=results):
            converted = [_result(result) for result in results]
            return pb.FromRunner(counter=counter, tool_results=pb.ToolResults(step=step, results=converted))
        case Failure(reason=reason, message=message):
            return pb.FromRunner(counter=counter, failure=pb.Failure(reason=reason, message=message))
        case Progress() | BlobChunk() | Elicit():
            return _during_call(ask, counter)
        case _:
            assert_never(ask)


def _during_call(ask: Progress | BlobChunk | Elicit, counter: int) -> pb.FromRunner:
    match ask:
        case Progress():
            return pb.FromRunner(counter=counter, progress=pb.Progress(**ask._asdict()))
        case BlobChunk():
            return pb.FromRunner(counter=counter, blob_chunk=pb.BlobChunk(**ask._asdict()))
        case Elicit():
            return pb.FromRunner(counter=counter, elicit=pb.Elicit(**ask._asdict()))
        case _:
            assert_never(ask)


def _skill_state(news: SkillState) -> pb.SkillState:
    return pb.SkillState(
        skill=news.skill,
        state=_STATES[news.state],
        tools=[pb.ToolSpec(**tool._asdict()) for tool in news.tools],
        detail=news.detail,
        server_name=news.server_name,
        server_version=news.server_version,
    )


def _result(result: Result) -> pb.ToolResult:
    return pb.ToolResult(
        call_id=result.call_id,
        content=[_part(part) for part in result.content],
        is_error=result.is_error,
        duration_ms=min(result.duration_ms, 0xFFFFFFFF),
    )


def _part(part: Part) -> pb.ContentPart:
    match part:
        case Text(text=text):
            return pb.ContentPart(text=text)
        case BlobRef():
            return pb.ContentPart(blob=pb.BlobRef(digest=part.digest, size=part.size, media_type=part.media_type))
        case Structured(json=data):
            return pb.ContentPart(structured=data)
        case Blob():
            raise ValueError("a blob has to go up in chunks before the result that refers to it")
        case _:
            assert_never(part)


def order_from_pb(message: pb.ToRunner) -> Order | None:
    """What the daemon ordered, or None when it is a message that this version does not know."""
    match message.WhichOneof("message"):
        case "welcome":
            return Welcome(message.welcome.session_token, message.welcome.acknowledged)
        case "assign":
            return _assign(message.assign)
        case "turn":
            calls = tuple(Call(c.call_id, c.skill, c.tool, c.arguments) for c in message.turn.calls)
            return Turn(message.turn.step, calls)
        case "ack":
            return Acknowledged(message.ack.counter)
        case "probe":
            return Probe(message.probe.path)
        case rest:
            return _ending(message, rest)


def _ending(message: pb.ToRunner, kind: str | None) -> Order | None:
    match kind:
        case "cancel_calls":
            return CancelCalls(tuple(message.cancel_calls.call_ids))
        case "elicited":
            answer = message.elicited
            return Elicited(answer.elicitation_id, answer.action, answer.content)
        case "refused":
            return Refused(message.refused.counter, message.refused.reason)
        case "finish":
            return Finish(message.finish.reason)
        case "rejected":
            return Rejected(message.rejected.reason)
        case _:
            return None


def _assign(assign: pb.Assign) -> Assign:
    limits = assign.limits
    return Assign(
        workspace_path=assign.workspace_path,
        workspace_read_only=assign.workspace_read_only,
        skills=tuple(_skill(skill) for skill in assign.skills),
        base_tools=tuple(assign.base_tools),
        exec_env=tuple(assign.exec_env.items()),
        limits=Limits(
            tool_timeout_ms=limits.tool_timeout_ms,
            skill_start_timeout_ms=limits.skill_start_timeout_ms,
            # A size of 0 cannot mean "no bound" in here: what a sandbox holds in memory is its own budget.
            inline_result_bytes=limits.inline_result_bytes or Limits().inline_result_bytes,
            result_bytes=limits.result_bytes or Limits().result_bytes,
        ),
        step=assign.step,
    )


def _skill(skill: pb.SkillSpec) -> SkillOrder:
    return SkillOrder(
        name=skill.name,
        command=tuple(skill.stdio.command),
        env=tuple(skill.stdio.env.items()),
        remote=_remote(skill.remote) if skill.HasField("remote") else None,
        pick=tuple(skill.pick),
        omit=tuple(skill.omit),
        start=_start(skill),
        private=skill.private_directories,
        tool_timeout_ms=skill.tool_timeout_ms,
        start_timeout_ms=skill.start_timeout_ms,
    )


def _remote(remote: pb.RemoteServer) -> Remote:
    return Remote(remote.transport, remote.endpoint, tuple(remote.headers.items()))


def _start(skill: pb.SkillSpec) -> str:
    if skill.start == pb.START_MODE_UNSPECIFIED and skill.lazy_init:
        return "atCall"
    return _STARTS.get(skill.start, "first")
