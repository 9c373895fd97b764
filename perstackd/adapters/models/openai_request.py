"""Our request as the arguments of `chat.completions.create`: messages, tools, reasoning. Pure."""

import json
from collections.abc import Iterable, Mapping
from typing import Final

from perstackd.adapters.models.openai_reasoning import reasoning_for
from perstackd.adapters.models.openai_settings import Dialect, OpenAiSettings
from perstackd.adapters.models.shown_blobs import chosen_blobs, in_words
from perstackd.domain.messages import (
    BlobPart,
    JsonObject,
    JsonValue,
    Message,
    ModelRequest,
    Part,
    Role,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)

IMAGE_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
OLLAMA_IMAGE_TYPES: Final = IMAGE_TYPES - {"image/gif"}
MAX_IMAGE_BYTES: Final = 5 * 2**20
MAX_BLOB_BYTES: Final = 20 * 2**20
"""All images of a request together."""

_OWN_MODELS: Final = frozenset({Dialect.OPENAI, Dialect.AZURE})


def wanted_blobs(request: ModelRequest, settings: OpenAiSettings) -> tuple[BlobPart, ...]:
    """The images that are shown as they are; every other blob is told of in words."""
    types = OLLAMA_IMAGE_TYPES if settings.dialect is Dialect.OLLAMA else IMAGE_TYPES
    if not settings.images:
        return ()
    return chosen_blobs(
        request.messages, lambda blob: blob.media_type in types and blob.size <= MAX_IMAGE_BYTES, MAX_BLOB_BYTES
    )


def arguments_of(request: ModelRequest, settings: OpenAiSettings, blobs: Mapping[str, str]) -> JsonObject:
    """All arguments but `stream`. `blobs` maps digests to base64 text."""
    dialect = settings.dialect
    reasoning = reasoning_for(dialect, request.model, request.reasoning, tools=bool(request.tools))
    bound = "max_completion_tokens" if dialect in _OWN_MODELS else "max_tokens"
    result: JsonObject = {
        "model": request.model,
        "messages": [
            *_system(request.system),
            *_Conversation(blobs, shown_again=reasoning.shown_again).entries(request.messages),
        ],
        bound: request.max_tokens + reasoning.extra_tokens,
        "stream_options": {"include_usage": True},
        **reasoning.arguments,
    }
    if request.tools:
        result["tools"] = [_tool(spec) for spec in request.tools]
    if dialect is Dialect.OPENAI:
        result["store"] = False  # else what is said may be kept there, as an account's settings have it
    return result


def _system(text: str) -> list[JsonObject]:
    """As `system`, which every server knows; OpenAI itself reads it as `developer` where a model wants that."""
    return [{"role": "system", "content": text}] if text.strip() else []


def _tool(spec: ToolSpec) -> JsonObject:
    # An object without properties is refused unless it says that it has none.
    schema: JsonObject = {"type": "object", "properties": {}, **spec.input_schema}
    return {"type": "function", "function": {"name": spec.name, "description": spec.description, "parameters": schema}}


class _Conversation:
    """Makes the entries of a history, once.

    Each result is an entry of its own, and all of a turn come right after it: images, which only a user may show,
    wait until the last of them, and go together with what the user says next.
    """

    def __init__(self, blobs: Mapping[str, str], *, shown_again: bool) -> None:
        self._blobs = blobs
        self._shown_again = shown_again
        self._entries: list[JsonObject] = []
        self._user: list[JsonObject] = []

    def entries(self, messages: Iterable[Message]) -> list[JsonObject]:
        for message in messages:
            match message.role:
                case Role.USER:
                    self._user += [block for part in message.parts for block in self._said(part)]
                case Role.ASSISTANT:
                    self._assistant(message.parts)
                case Role.TOOL:
                    for part in message.parts:
                        if isinstance(part, ToolResultPart):
                            self._result(part)
        self._end_user()
        return self._entries

    def _end_user(self) -> None:
        if self._user:
            self._entries.append({"role": "user", "content": _content(self._user)})
            self._user = []

    def _assistant(self, parts: tuple[Part, ...]) -> None:
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        calls: list[JsonValue] = [_call(part) for part in parts if isinstance(part, ToolCallPart)]
        if not calls and not text.strip():
            return  # what was only thought is nothing that can be said again
        self._end_user()
        entry: JsonObject = {"role": "assistant", "content": text or None}
        if calls:
            entry["tool_calls"] = calls
            if self._shown_again:
                # Also when nothing was reasoned: the field itself is asked for.
                entry["reasoning_content"] = "".join(part.text for part in parts if isinstance(part, ThinkingPart))
        self._entries.append(entry)

    def _result(self, part: ToolResultPart) -> None:
        images: list[JsonObject] = []
        texts: list[str] = []
        for item in part.content:
            if isinstance(item, TextPart):
                texts.append(item.text)
            elif part.is_error or item.digest not in self._blobs:
                texts.append(in_words(item))
            else:
                texts.append(in_words(item, "shown in the next message of the user"))
                images += [_text(f"{in_words(item, 'a result')}"), _image(item, self._blobs)]
        # There is no field for it; a result that failed must say so in its words.
        content = ("Error: " if part.is_error else "") + "\n".join(texts)
        self._entries.append({"role": "tool", "tool_call_id": part.call_id, "content": content})
        self._user += images

    def _said(self, part: Part) -> list[JsonObject]:
        match part:
            case TextPart():
                return [_text(part.text)] if part.text.strip() else []
            case BlobPart():
                return [_image(part, self._blobs) if part.digest in self._blobs else _text(in_words(part))]
            case _:
                return []  # a user neither thinks nor calls nor answers a call


def _content(blocks: list[JsonObject]) -> JsonValue:
    """Plain text if it is nothing else: not every server takes a list of parts."""
    if all(block["type"] == "text" for block in blocks):
        return "\n\n".join(str(block["text"]) for block in blocks)
    return list(blocks)


def _text(text: str) -> JsonObject:
    return {"type": "text", "text": text}


def _image(blob: BlobPart, blobs: Mapping[str, str]) -> JsonObject:
    return {"type": "image_url", "image_url": {"url": f"data:{blob.media_type};base64,{blobs[blob.digest]}"}}


def _call(part: ToolCallPart) -> JsonObject:
    arguments = json.dumps(part.arguments, ensure_ascii=False, separators=(",", ":"))
    return {"id": part.call_id, "type": "function", "function": {"name": part.name, "arguments": arguments}}
