"""Our request as the arguments of `responses.create`: items, tools, reasoning. Pure.

Nothing is stored there: every request carries the whole conversation, with what was reasoned encrypted. Source:
https://developers.openai.com/api/docs/guides/conversation-state and .../guides/reasoning.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Final

from perstackd.adapters.models.openai_reasoning import responses_reasoning
from perstackd.adapters.models.openai_settings import OpenAiSettings
from perstackd.adapters.models.provider_document import parsed
from perstackd.adapters.models.shown_blobs import chosen_blobs, in_words
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
from perstackd.domain.provider_tools import options_of, usable

IMAGE_TYPES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
DOCUMENT_TYPES: Final = frozenset({"application/pdf"})
MAX_IMAGE_BYTES: Final = 5 * 2**20
MAX_DOCUMENT_BYTES: Final = 20 * 2**20
MAX_BLOB_BYTES: Final = 20 * 2**20
"""All blobs of a request together."""

SECTION: Final = "\n\n"
"""Stands before every section of a summary but the first; ours, not the provider's."""

_INCLUDES: Final = {"codeInterpreter": "code_interpreter_call.outputs", "fileSearch": "file_search_call.results"}
"""What a tool found must be said again with later requests, so it must be sent here at all."""


def wanted_response_blobs(request: ModelRequest, settings: OpenAiSettings) -> tuple[BlobPart, ...]:
    """The images and documents that are shown as they are; every other blob is told of in words."""
    return chosen_blobs(request.messages, _showable, MAX_BLOB_BYTES) if settings.images else ()


def response_arguments(
    request: ModelRequest, settings: OpenAiSettings, blobs: Mapping[str, str], *, summaries: bool
) -> JsonObject:
    """All arguments but `stream`. `blobs` maps digests to base64 text; `summaries` asks for what was reasoned."""
    reasoning = responses_reasoning(request.model, request.reasoning)
    own = usable(request)
    include = [*_texts(reasoning.arguments.get("include")), *(_INCLUDES[tool] for tool in own if tool in _INCLUDES)]
    result: JsonObject = {
        "model": request.model,
        "input": [*_Conversation(blobs, settings.provider).items(request.messages)],
        "max_output_tokens": request.max_tokens + reasoning.extra_tokens,
        "store": False,
        **reasoning.arguments,
    }
    if include:
        result["include"] = list(include)
    if not summaries:
        result |= without_summary(result)
    if request.system.strip():
        result["instructions"] = request.system
    tools = [*(_own_tool(tool, options_of(request).get(tool, {})) for tool in own), *map(_tool, request.tools)]
    if tools:
        result["tools"] = list(tools)
    return result


def without_summary(arguments: JsonObject) -> JsonObject:
    """The arguments for an account that is not shown what is reasoned."""
    reasoning = arguments.get("reasoning")
    if not isinstance(reasoning, dict):
        return arguments
    return {**arguments, "reasoning": {key: value for key, value in reasoning.items() if key != "summary"}}


def _own_tool(name: str, options: JsonObject) -> JsonObject:
    match name:
        case "webSearch":
            domains = options.get("allowedDomains")
            search: JsonObject = {"type": "web_search"}
            return {**search, "filters": {"allowed_domains": domains}} if domains else search
        case "webSearchPreview":
            return {"type": "web_search_preview"}
        case "fileSearch":
            tool: JsonObject = {"type": "file_search", "vector_store_ids": options.get("vectorStoreIds")}
            most = options.get("maxNumResults")
            return {**tool, "max_num_results": most} if most else tool
        case _:
            return {"type": "code_interpreter", "container": {"type": "auto"}}


def _tool(spec: ToolSpec) -> JsonObject:
    # An object without properties is refused unless it says that it has none; strict, which is the default, rewrites.
    schema: JsonObject = {"type": "object", "properties": {}, **spec.input_schema}
    head: JsonObject = {"type": "function", "name": spec.name, "description": spec.description}
    return {**head, "parameters": schema, "strict": False}


class _Conversation:
    """Makes the items of a history, once. What a user says in several messages is one item."""

    def __init__(self, blobs: Mapping[str, str], provider: str) -> None:
        self._blobs = blobs
        self._provider = provider
        self._items: list[JsonObject] = []
        self._user: list[JsonObject] = []

    def items(self, messages: Iterable[Message]) -> list[JsonObject]:
        for message in messages:
            match message.role:
                case Role.USER:
                    self._user += [block for part in message.parts for block in self._said(part)]
                case Role.ASSISTANT:
                    self._add(*self._assistant(message.parts))
                case Role.TOOL:
                    self._add(*(self._result(part) for part in message.parts if isinstance(part, ToolResultPart)))
        self._end_user()
        return self._items

    def _add(self, *items: JsonObject) -> None:
        if items:
            self._end_user()
            self._items += items

    def _end_user(self) -> None:
        if self._user:
            self._items.append({"type": "message", "role": "user", "content": list(self._user)})
            self._user = []

    def _assistant(self, parts: tuple[Part, ...]) -> list[JsonObject]:
        items: list[JsonObject] = []
        for reasoning, group in groupby(parts, _reasoning_id):
            if reasoning:
                items += self._reasoned(group)
            else:
                items += (item for part in group if (item := self._item(part)) is not None)
        # What was reasoned must be followed by what came of it: a call that nobody answers is left out of a history.
        while items and items[-1]["type"] == "reasoning":
            items.pop()
        return items

    def _reasoned(self, group: Iterable[Part]) -> Iterator[JsonObject]:
        """One item, whose sections are parts of their own; none without what is encrypted, as it was not stored."""
        sections = [part for part in group if isinstance(part, ThinkingPart) and part.provider == self._provider]
        encrypted = next((part.redacted for part in sections if part.redacted), "")
        if encrypted:
            texts = (part.text.removeprefix(SECTION) if index else part.text for index, part in enumerate(sections))
            summary: list[JsonValue] = [{"type": "summary_text", "text": text} for text in texts if text]
            identity = sections[0].signature
            yield {"type": "reasoning", "id": identity, "summary": summary, "encrypted_content": encrypted}

    def _item(self, part: Part) -> "JsonObject | None":
        match part:
            case TextPart():
                return self._spoken(part) if part.text.strip() else None
            case ToolCallPart():
                arguments = json.dumps(part.arguments, ensure_ascii=False, separators=(",", ":"))
                call: JsonObject = {"type": "function_call", "call_id": part.call_id, "name": part.name}
                return {**call, "arguments": arguments}
            case ProviderPart() if part.provider == self._provider:
                return parsed(part.document)
            case _:
                return None  # what another provider thought or kept is nothing that can be said here

    def _spoken(self, part: TextPart) -> JsonObject:
        beside = parsed(part.document) if part.provider == self._provider else {}
        content: JsonObject = {"type": "output_text", "text": part.text}
        if beside.get("refusal"):
            content = {"type": "refusal", "refusal": part.text}
        if beside.get("annotations"):
            content["annotations"] = beside["annotations"]
        item: JsonObject = {"type": "message", "role": "assistant", "content": [content]}
        return {**item, "phase": beside["phase"]} if beside.get("phase") else item

    def _result(self, part: ToolResultPart) -> JsonObject:
        shown = {} if part.is_error else self._blobs
        content = [_content(item, shown) for item in part.content]
        # There is no field for it; a result that failed must say so in its words.
        words = ("Error: " if part.is_error else "") + "\n".join(
            str(block["text"]) for block in content if block["type"] == "input_text"
        )
        plain = all(block["type"] == "input_text" for block in content)
        output: JsonValue = words if plain else list(content)
        return {"type": "function_call_output", "call_id": part.call_id, "output": output}

    def _said(self, part: Part) -> list[JsonObject]:
        match part:
            case TextPart() if part.text.strip():
                return [_content(TextPart(part.text), self._blobs)]
            case BlobPart():
                return [_content(part, self._blobs)]
            case _:
                return []  # a user neither thinks nor calls nor answers a call


def _reasoning_id(part: Part) -> str:
    return part.signature if isinstance(part, ThinkingPart) else ""


def _content(item: TextPart | BlobPart, blobs: Mapping[str, str]) -> JsonObject:
    if isinstance(item, TextPart):
        return {"type": "input_text", "text": item.text}
    if item.digest not in blobs:
        return {"type": "input_text", "text": in_words(item)}
    data = f"data:{item.media_type};base64,{blobs[item.digest]}"
    if item.media_type in DOCUMENT_TYPES:
        return {"type": "input_file", "filename": "document.pdf", "file_data": data}
    return {"type": "input_image", "image_url": data, "detail": "auto"}


def _showable(blob: BlobPart) -> bool:
    if blob.media_type in IMAGE_TYPES:
        return blob.size <= MAX_IMAGE_BYTES
    return blob.media_type in DOCUMENT_TYPES and blob.size <= MAX_DOCUMENT_BYTES


def _texts(value: JsonValue) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
