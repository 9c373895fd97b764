"""Our request as the body of Anthropic's Messages API: blocks, cache marks, thinking. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from perstackd.adapters.models.anthropic_tools import CONTAINER, PROVIDER, container, server_tools
from perstackd.adapters.models.provider_document import parsed
from perstackd.adapters.models.shown_blobs import chosen_blobs, in_words
from perstackd.adapters.models.thinking import thinking_for
from perstackd.domain.messages import (
    BlobPart,
    JsonObject,
    JsonValue,
    Message,
    ModelRequest,
    Part,
    ProviderPart,
    Role,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)

IMAGE_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
DOCUMENT_TYPES: Final = frozenset({"application/pdf"})
MAX_IMAGE_BYTES: Final = 5 * 2**20
MAX_DOCUMENT_BYTES: Final = 20 * 2**20
MAX_BLOB_BYTES: Final = 20 * 2**20
"""All blobs of a request together; the API takes 32 MB, and base64 makes 27 of these 20."""

_MARK: Final[JsonObject] = {"type": "ephemeral"}
_MARKED_TURNS: Final = 2


def wanted_blobs(request: ModelRequest) -> tuple[BlobPart, ...]:
    """The blobs that the body shows as they are: of a kind and size that the API takes, newest first, until together
    they reach the bound. The others are told of in words."""
    return chosen_blobs(request.messages, _showable, MAX_BLOB_BYTES)


def body(request: ModelRequest, blobs: Mapping[str, str], now: datetime) -> JsonObject:
    """The arguments of `messages.create`. `blobs` maps digests to base64 text. Raises as `server_tools` does."""
    thinking = thinking_for(request.model, request.reasoning)
    result: JsonObject = {
        "model": request.model,
        "max_tokens": request.max_tokens + thinking.extra_tokens,
        "messages": _turns(request.messages, blobs),
        **thinking.fields,
    }
    if request.system.strip():
        result["system"] = [{"type": "text", "text": request.system, "cache_control": _MARK}]
    tools = [*server_tools(request), *(_tool(spec) for spec in request.tools)]
    if tools:
        tools[-1]["cache_control"] = _MARK
        result["tools"] = list(tools)
    used = container(request, now)
    if used is not None:
        result["container"] = used
    return result


def _tool(spec: ToolSpec) -> JsonObject:
    schema: JsonObject = {"type": "object", **spec.input_schema}
    return {"name": spec.name, "description": spec.description, "input_schema": schema}


def _turns(messages: tuple[Message, ...], blobs: Mapping[str, str]) -> list[JsonValue]:
    """One entry for each change of speaker: a turn's tool results, and what a user says after them, go together."""
    turns: list[tuple[str, list[JsonObject]]] = []
    for message in messages:
        role = "assistant" if message.role is Role.ASSISTANT else "user"
        blocks = [block for part in message.parts if (block := _block(part, blobs)) is not None]
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        elif blocks:
            turns.append((role, blocks))
    for blocks in [blocks for role, blocks in turns if role == "user"][-_MARKED_TURNS:]:
        blocks[-1]["cache_control"] = _MARK
    return [{"role": role, "content": list(blocks)} for role, blocks in turns]


def _block(part: Part, blobs: Mapping[str, str]) -> "JsonObject | None":
    """None for what the API refuses and nobody misses: blank text, and what only another provider understands."""
    match part:
        case TextPart():
            return _text(part)
        case ThinkingPart():
            return _thinking(part)
        case BlobPart():
            return _blob(part, blobs)
        case ToolCallPart():
            return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": part.arguments}
        case ToolResultPart():
            return _result(part, blobs)
        case ProviderPart():
            document = parsed(part.document) if part.provider == PROVIDER else {}
            return document if document.get("type", CONTAINER) != CONTAINER else None


def _text(part: TextPart) -> "JsonObject | None":
    beside = parsed(part.document) if part.provider == PROVIDER else {}
    return {**beside, "type": "text", "text": part.text} if part.text.strip() else None


def _thinking(part: ThinkingPart) -> "JsonObject | None":
    if part.provider not in ("", PROVIDER):
        return None
    if part.redacted:
        return {"type": "redacted_thinking", "data": part.redacted}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature} if part.signature else None


def _result(part: ToolResultPart, blobs: Mapping[str, str]) -> JsonObject:
    # The API takes nothing but text in a result that is an error.
    shown = {} if part.is_error else blobs
    content: list[JsonValue] = [block for item in part.content if (block := _block(item, shown)) is not None]
    result: JsonObject = {"type": "tool_result", "tool_use_id": part.call_id, "content": content}
    return {**result, "is_error": True} if part.is_error else result


def _blob(blob: BlobPart, blobs: Mapping[str, str]) -> JsonObject:
    if blob.digest not in blobs:
        return {"type": "text", "text": in_words(blob)}
    kind = "document" if blob.media_type in DOCUMENT_TYPES else "image"
    source: JsonObject = {"type": "base64", "media_type": blob.media_type, "data": blobs[blob.digest]}
    return {"type": kind, "source": source}


def _showable(blob: BlobPart) -> bool:
    if blob.media_type in IMAGE_TYPES:
        return blob.size <= MAX_IMAGE_BYTES
    return blob.media_type in DOCUMENT_TYPES and blob.size <= MAX_DOCUMENT_BYTES
