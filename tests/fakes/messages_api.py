"""A loopback server that speaks Anthropic's Messages API, over real HTTP, with every way of breaking that it has."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from perstackd.domain.messages import FinishReason, ProviderPart, SaidPart, TextPart, ThinkingPart, ToolCallPart, Turn

_STOP_REASONS = {
    FinishReason.STOP: "end_turn",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.CONTENT_FILTER: "refusal",
}


class Ending(Enum):
    """How a reply ends once its frames are sent."""

    CLEAN = "clean"
    CUT = "cut"
    HANG = "hang"


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server sends: frames as they are, each in a chunk of its own."""

    frames: tuple[bytes, ...] = ()
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    ending: Ending = Ending.CLEAN
    content_type: str = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Received:
    """A request that arrived."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass(slots=True)
class MessagesApi:
    """A running server. `replies` are used up in order; once they are gone `fallback` makes them from the request."""

    replies: list[Reply]
    fallback: Callable[[dict[str, Any]], Reply] | None = None
    received: list[Received] = field(default_factory=list)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    caller_left: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def host(self) -> str:
        """What an operator would allow."""
        return f"127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the caller left, or the test is over
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = await _read_request(reader)
        if request is None:
            return False
        self.received.append(request)
        reply = self._next(request.body)
        writer.write(_head(reply))
        for frame in reply.frames:
            writer.write(b"%x\r\n%s\r\n" % (len(frame), frame))
            await writer.drain()
        match reply.ending:
            case Ending.CLEAN:
                writer.write(b"0\r\n\r\n")
                await writer.drain()
                return True
            case Ending.CUT:
                writer.transport.abort()
                return False
            case Ending.HANG:
                self.hanging.set()
                await reader.read()  # until the caller hangs up
                self.caller_left.set()
                return False

    def _next(self, body: dict[str, Any]) -> Reply:
        if self.replies:
            return self.replies.pop(0)
        if self.fallback is not None:
            return self.fallback(body)
        return failure(500, "api_error", "the test's script has no more replies")


@asynccontextmanager
async def serving(
    *replies: Reply, fallback: Callable[[dict[str, Any]], Reply] | None = None
) -> AsyncIterator[MessagesApi]:
    """Serve on a free port of loopback until the block is left."""
    api = MessagesApi(list(replies), fallback)
    server = await asyncio.start_server(api._serve, "127.0.0.1", 0, limit=2**20)
    api.port = server.sockets[0].getsockname()[1]
    try:
        yield api
    finally:
        server.close()
        tasks = list(api._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def scripted(turns: Mapping[str, Sequence[Turn]]) -> Callable[[dict[str, Any]], Reply]:
    """A `fallback` that works as `ScriptedModels` does: marker in the system prompt, place by assistant messages."""

    def respond(body: dict[str, Any]) -> Reply:
        system = json.dumps(body.get("system", ""))
        position = sum(message["role"] == "assistant" for message in body["messages"])
        script = next((script for marker, script in turns.items() if marker in system), ())
        if position >= len(script):
            return failure(400, "invalid_request_error", f"the script has no turn {position + 1}")
        return answer(script[position])

    return respond


def answer(turn: Turn, ending: Ending = Ending.CLEAN, stop_reason: str = "") -> Reply:
    """The turn as the API streams it."""
    return Reply(tuple(frames_of(turn, stop_reason=stop_reason)), ending=ending)


def failure(status: int, type_: str, message: str, *headers: tuple[str, str]) -> Reply:
    """An error with a status of its own."""
    return Reply((json.dumps(error_body(type_, message)).encode(),), status, headers, content_type="application/json")


def error_body(type_: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": type_, "message": message}, "request_id": "req_test"}


def frame(event: str, data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {event}\ndata: {json.dumps({'type': event, **data})}\n\n".encode()


def frames_of(turn: Turn, usage: Mapping[str, int] | None = None, stop_reason: str = "") -> Iterable[bytes]:
    """Every event of a turn, with a ping in between as the API sends them. `usage` overrides the counts."""
    cached, written = turn.usage.cached_input_tokens, turn.usage.cache_write_tokens
    start_usage = {
        "input_tokens": turn.usage.input_tokens - cached - written,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": written,
        "output_tokens": 1,
    }
    message = {"id": "msg_test", "type": "message", "role": "assistant", "content": [], "model": turn.model}
    yield frame(
        "message_start", {"message": {**message, "stop_reason": None, "usage": {**start_usage, **(usage or {})}}}
    )
    yield frame("ping", {})
    container = None
    for index, part in enumerate(turn.parts):
        if isinstance(part, ProviderPart) and (document := json.loads(part.document))["type"] == "container":
            container = {**document, "skills": None}
        else:
            yield from _block_frames(index, part)
    details = {"thinking_tokens": turn.usage.reasoning_tokens}
    reason = stop_reason or _STOP_REASONS[turn.finish_reason]
    yield frame(
        "message_delta",
        {
            "delta": {"stop_reason": reason, "stop_sequence": None, "container": container},
            "usage": {"output_tokens": turn.usage.output_tokens, "output_tokens_details": details},
        },
    )
    yield frame("message_stop", {})


def _block_frames(index: int, part: SaidPart) -> Iterable[bytes]:
    block, deltas = _block(part)
    yield frame("content_block_start", {"index": index, "content_block": block})
    for delta in deltas:
        yield frame("content_block_delta", {"index": index, "delta": delta})
    yield frame("content_block_stop", {"index": index})


def _block(part: SaidPart) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    match part:
        case TextPart(text=text, document=document):
            said: list[dict[str, Any]] = [{"type": "text_delta", "text": piece} for piece in _halves(text)]
            cited = json.loads(document or "{}").get("citations", [])
            said += [{"type": "citations_delta", "citation": citation} for citation in cited]
            return {"type": "text", "text": ""}, said
        case ThinkingPart(redacted=data) if data:
            return {"type": "redacted_thinking", "data": data}, []
        case ThinkingPart(text=text, signature=signature):
            pieces: list[dict[str, Any]] = [{"type": "thinking_delta", "thinking": piece} for piece in _halves(text)]
            pieces.append({"type": "signature_delta", "signature": signature})
            return {"type": "thinking", "thinking": "", "signature": ""}, pieces
        case ToolCallPart(call_id=call_id, name=name, arguments=arguments):
            halves = _halves(json.dumps(arguments))
            block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
            return block, [{"type": "input_json_delta", "partial_json": piece} for piece in halves]
        case ProviderPart(document=document):
            return _provider_block(json.loads(document))


def _provider_block(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The input of a call comes in pieces, a result at once."""
    if block["type"] != "server_tool_use":
        return block, []
    halves = _halves(json.dumps(block["input"]))
    return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in halves]


def _halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]


def _head(reply: Reply) -> bytes:
    lines = [
        f"HTTP/1.1 {reply.status} Test",
        f"content-type: {reply.content_type}",
        "transfer-encoding: chunked",
        *(f"{name}: {value}" for name, value in reply.headers),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _read_request(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None  # a connection that was kept for the next request and not used again
    first, *rest = head.decode().strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    data = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(first.split(" ")[1], headers, json.loads(data or b"{}"))
