"""A loopback server that speaks OpenAI's Chat Completions, over real HTTP, with every way of breaking that it has.

The server itself is that of `messages_api`; here is what it says.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from perstackd.domain.messages import FinishReason, TextPart, ThinkingPart, ToolCallPart, Turn
from tests.fakes.messages_api import Ending, Received, Reply, serving
from tests.fakes.messages_api import MessagesApi as ChatApi

__all__ = [
    "DONE",
    "ChatApi",
    "Ending",
    "Received",
    "Reply",
    "answer",
    "chunk",
    "error_body",
    "failure",
    "frame",
    "frames_of",
    "scripted",
    "serving",
    "usage_of",
]

DONE = b"data: [DONE]\n\n"

_FINISH_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.TOOL_CALLS: "tool_calls",
    FinishReason.LENGTH: "length",
    FinishReason.CONTENT_FILTER: "content_filter",
}


def scripted(turns: Mapping[str, Sequence[Turn]]) -> Callable[[dict[str, Any]], Reply]:
    """A `fallback` that works as `ScriptedModels` does: marker in the system prompt, place by assistant messages."""

    def respond(body: dict[str, Any]) -> Reply:
        messages = body["messages"]
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        position = sum(message["role"] == "assistant" for message in messages)
        script = next((script for marker, script in turns.items() if marker in system), ())
        if position >= len(script):
            return failure(400, "invalid_request_error", f"the script has no turn {position + 1}")
        return answer(script[position])

    return respond


def answer(turn: Turn, ending: Ending = Ending.CLEAN) -> Reply:
    """The turn as the API streams it."""
    return Reply(tuple(frames_of(turn)), ending=ending)


def failure(status: int, type_: str, message: str, *headers: tuple[str, str], code: str | None = None) -> Reply:
    """An error with a status of its own."""
    body = json.dumps(error_body(type_, message, code)).encode()
    return Reply((body,), status, headers, content_type="application/json")


def error_body(type_: str, message: str, code: str | int | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}


def frame(data: Mapping[str, Any]) -> bytes:
    """One server-sent event; this API gives them no names."""
    return f"data: {json.dumps(data)}\n\n".encode()


def chunk(delta: Mapping[str, Any], finish_reason: str | None = None, model: str = "gpt-test") -> bytes:
    """One piece of the only choice."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return frame({**_head(model), "choices": [choice], "usage": None})


def usage_of(turn: Turn) -> dict[str, Any]:
    """A turn's counts as the API has them."""
    usage = turn.usage
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens, "audio_tokens": 0},
    }


def frames_of(turn: Turn, usage: Mapping[str, Any] | None = None) -> Iterable[bytes]:
    """Every event of a turn: a comment to keep the connection, the pieces, those of parallel calls mixed, the reason
    of the end, the counts (`usage` instead of the turn's own), and `[DONE]`. Signatures and what was redacted have no
    place in this API.
    """
    yield b": keep-alive\n\n"
    yield chunk({"role": "assistant", "content": ""}, model=turn.model)
    for part in turn.parts:
        match part:
            case TextPart(text=text):
                yield from (chunk({"content": piece}, model=turn.model) for piece in _halves(text))
            case ThinkingPart(text=text):
                yield from (chunk({"reasoning_content": piece}, model=turn.model) for piece in _halves(text))
            case _:
                pass
    yield from (chunk({"tool_calls": [piece]}, model=turn.model) for piece in _call_pieces(turn.calls))
    yield chunk({}, _FINISH_REASONS[turn.finish_reason], model=turn.model)
    yield frame({**_head(turn.model), "choices": [], "usage": usage_of(turn) if usage is None else usage})
    yield DONE


def _call_pieces(calls: Sequence[ToolCallPart]) -> Iterable[dict[str, Any]]:
    for index, call in enumerate(calls):
        function = {"name": call.name, "arguments": ""}
        yield {"index": index, "id": call.call_id, "type": "function", "function": function}
    halves = [_halves(json.dumps(call.arguments)) for call in calls]
    for position in range(2):
        for index, pieces in enumerate(halves):
            yield from ({"index": index, "function": {"arguments": piece}} for piece in pieces[position : position + 1])


def _head(model: str) -> dict[str, Any]:
    return {"id": "chatcmpl-test", "object": "chat.completion.chunk", "created": 1, "model": model}


def _halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]
