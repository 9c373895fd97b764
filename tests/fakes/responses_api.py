"""A loopback server that speaks OpenAI's Responses API, over real HTTP, with every way of breaking that it has.

The server itself is that of `messages_api`; here is what it says.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, groupby
from typing import Any

from perstackd.domain.messages import FinishReason, ProviderPart, SaidPart, TextPart, ThinkingPart, ToolCallPart, Turn
from tests.fakes.chat_api import error_body, failure
from tests.fakes.messages_api import Ending, Received, Reply, serving
from tests.fakes.messages_api import MessagesApi as ResponsesApi

__all__ = [
    "Ending",
    "Received",
    "Reply",
    "ResponsesApi",
    "answer",
    "error_body",
    "failed",
    "failure",
    "frame",
    "frames_of",
    "item_frames",
    "scripted",
    "serving",
    "terminal",
]

_SECTION = "\n\n"
_INCOMPLETE = {FinishReason.LENGTH: "max_output_tokens", FinishReason.CONTENT_FILTER: "content_filter"}


def scripted(turns: Mapping[str, Sequence[Turn]]) -> Callable[[dict[str, Any]], Reply]:
    """A `fallback` that works as `ScriptedModels` does: marker in the system prompt, place by turns of the model.

    A turn is told from the next one by what the user or a tool says between them.
    """

    def respond(body: dict[str, Any]) -> Reply:
        position = sum(theirs for theirs, _ in groupby(body["input"], _of_the_model))
        script = next((script for marker, script in turns.items() if marker in body.get("instructions", "")), ())
        if position >= len(script):
            return failure(400, "invalid_request_error", f"the script has no turn {position + 1}")
        return answer(script[position])

    return respond


def answer(turn: Turn, ending: Ending = Ending.CLEAN) -> Reply:
    """The turn as the API streams it."""
    return Reply(tuple(frames_of(turn)), ending=ending)


def frame(type_: str, data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {type_}\ndata: {json.dumps({'type': type_, 'sequence_number': 0, **data})}\n\n".encode()


def frames_of(turn: Turn, usage: Mapping[str, Any] | None = None) -> Iterable[bytes]:
    """Every event of a turn; there is no `[DONE]`. `usage` instead of the turn's own counts."""
    yield frame("response.created", {"response": _response(turn, "in_progress")})
    yield b": keep-alive\n\n"
    for index, item in enumerate(_items(turn)):
        yield from item_frames(index, item)
    yield terminal(turn, usage)


def terminal(turn: Turn, usage: Mapping[str, Any] | None = None) -> bytes:
    """The event that ends the turn."""
    reason = _INCOMPLETE.get(turn.finish_reason)
    status = "incomplete" if reason else "completed"
    response = _response(turn, status) | {
        "incomplete_details": {"reason": reason} if reason else None,
        "usage": _usage_of(turn) if usage is None else usage,
    }
    return frame(f"response.{status}", {"response": response})


def failed(code: str, message: str) -> bytes:
    """The event of a response that the provider could not finish."""
    error = {"code": code, "message": message}
    return frame("response.failed", {"response": {"id": "resp_test", "status": "failed", "error": error}})


def item_frames(index: int, item: Mapping[str, Any]) -> Iterable[bytes]:
    """Beginning, pieces and end of an item."""
    place = {"output_index": index, "item_id": item.get("id", "")}
    yield frame("response.output_item.added", {**place, "item": {**item, "status": "in_progress"}})
    match item["type"]:
        case "message":
            for part, content in enumerate(item["content"]):
                kind, text = (
                    ("refusal", content["refusal"]) if "refusal" in content else ("output_text", content["text"])
                )
                pieces = _halves(text)
                yield from (
                    frame(f"response.{kind}.delta", {**place, "content_index": part, "delta": x}) for x in pieces
                )
        case "reasoning":
            for section, summary in enumerate(item["summary"]):
                where = {**place, "summary_index": section}
                yield frame("response.reasoning_summary_part.added", {**where, "part": {**summary, "text": ""}})
                for piece in _halves(summary["text"]):
                    yield frame("response.reasoning_summary_text.delta", {**where, "delta": piece})
        case "function_call":
            for piece in _halves(item["arguments"]):
                yield frame("response.function_call_arguments.delta", {**place, "delta": piece})
        case _:
            pass
    yield frame("response.output_item.done", {**place, "item": item})


def _items(turn: Turn) -> Iterable[dict[str, Any]]:
    numbers = count(1)
    for identity, parts in groupby(turn.parts, lambda part: part.signature if isinstance(part, ThinkingPart) else ""):
        if identity:
            yield _reasoning(identity, [part for part in parts if isinstance(part, ThinkingPart)])
        else:
            yield from (item for part in parts if (item := _item(part, next(numbers))) is not None)


def _reasoning(identity: str, parts: Sequence[ThinkingPart]) -> dict[str, Any]:
    texts = [part.text.removeprefix(_SECTION) if index else part.text for index, part in enumerate(parts)]
    summary = [{"type": "summary_text", "text": text} for text in texts if text]
    encrypted = next((part.redacted for part in parts if part.redacted), None)
    return {"type": "reasoning", "id": identity, "summary": summary, "encrypted_content": encrypted}


def _item(part: SaidPart, number: int) -> dict[str, Any] | None:
    match part:
        case TextPart(text=text, document=document):
            return _message(text, json.loads(document or "{}"), number)
        case ToolCallPart(call_id=call_id, name=name, arguments=arguments):
            head = {"type": "function_call", "id": f"fc_{number}", "call_id": call_id, "name": name}
            return {**head, "arguments": json.dumps(arguments), "status": "completed"}
        case ProviderPart(document=document):
            found: dict[str, Any] = json.loads(document)
            return found
        case _:
            return None


def _message(text: str, beside: Mapping[str, Any], number: int) -> dict[str, Any]:
    content: dict[str, Any] = {"type": "output_text", "text": text, "annotations": beside.get("annotations", [])}
    if beside.get("refusal"):
        content = {"type": "refusal", "refusal": text}
    head = {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed", "content": [content]}
    return {**head, "phase": beside["phase"]} if "phase" in beside else head


def _response(turn: Turn, status: str) -> dict[str, Any]:
    return {"id": "resp_test", "object": "response", "model": turn.model, "status": status, "output": [], "error": None}


def _usage_of(turn: Turn) -> dict[str, Any]:
    usage = turn.usage
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _of_the_model(item: Mapping[str, Any]) -> bool:
    return item["type"] != "function_call_output" and item.get("role") != "user"


def _halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]
