"""Puts a turn together from the events of OpenAI's Responses API, and takes nothing for finished that is not.

Source of the events: https://developers.openai.com/api/reference/resources/responses/streaming-events. An item is
taken from the event that ends it; the pieces before it are only shown.
"""

from typing import Any, Final, cast

from perstackd.adapters.models.openai_responses_request import SECTION
from perstackd.adapters.models.provider_document import Documents, canonical, of_sdk
from perstackd.adapters.models.provider_errors import Failure
from perstackd.adapters.models.provider_turn import (
    MAX_CHARACTERS,
    BrokenStreamError,
    FailedTurnError,
    call_arguments,
)
from perstackd.domain.messages import (
    FinishReason,
    JsonObject,
    ProviderPart,
    SaidPart,
    TextDelta,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    ToolCallPart,
    Turn,
    Usage,
)

MAX_ITEMS: Final = 1024


class ResponseBuilder:
    """Feed it every event in order, then ask for the turn. Any misfit raises `BrokenStreamError`; what the provider
    says of a failure raises `FailedTurnError`. `provider` is who its encrypted and opaque parts go back to.
    """

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._items: dict[int, JsonObject] = {}
        self._begun: set[int] = set()
        self._characters = 0
        self._refused = False
        self._end: JsonObject = {}
        self._documents = Documents()
        self.finished = False

    def feed(self, event: Any) -> tuple[TextDelta | ThinkingDelta, ...]:
        """Take in one event of the SDK; returns what a watcher can already be shown."""
        try:
            return self._feed(event)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            # The SDK builds its values without checking them, so a damaged event shows only where it is used.
            raise BrokenStreamError(f"a {getattr(event, 'type', '?')!r} event is damaged") from error

    def turn(self) -> Turn:
        """The complete turn, in the order of the items."""
        if not self.finished:
            raise BrokenStreamError("it ended without response.completed")
        cut = self._cut()
        if cut is None and self._begun - self._items.keys():
            raise BrokenStreamError("its end came before the end of its items")
        try:
            parts = tuple(
                part for index in sorted(self._items) for part in self._parts(self._items[index], cut=cut is not None)
            )
        except (AttributeError, LookupError, TypeError) as error:
            raise BrokenStreamError("an item is damaged") from error
        if self._refused:
            cut = FinishReason.CONTENT_FILTER
        called = any(isinstance(part, ToolCallPart) for part in parts)
        whole = FinishReason.TOOL_CALLS if called else FinishReason.STOP
        return Turn(parts, cut or whole, _usage(self._end.get("usage")), str(self._end.get("model") or ""))

    def _feed(self, event: Any) -> tuple[TextDelta | ThinkingDelta, ...]:
        match event.type:
            case "response.output_text.delta" | "response.refusal.delta":
                return self._shown(TextDelta(self._counted(event.delta)))
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return self._shown(ThinkingDelta(self._counted(event.delta)))
            case "response.reasoning_summary_part.added":
                return (ThinkingDelta(SECTION),) if event.summary_index else ()
            case "response.output_item.added":
                self._begun.add(self._index(event))
            case "response.output_item.done":
                item = of_sdk(event.item)
                self._counted(canonical(item))
                self._items[self._index(event)] = item
            case "response.completed" | "response.incomplete":
                self._end, self.finished = of_sdk(event.response), True
            case "response.failed":
                raise FailedTurnError(_failure(of_sdk(event.response).get("error")))
            case "error":
                raise FailedTurnError(_failure(of_sdk(event)))
            case _:
                pass  # What a tool of the provider does meanwhile, and events newer than this.
        return ()

    @staticmethod
    def _shown(delta: TextDelta | ThinkingDelta) -> tuple[TextDelta | ThinkingDelta, ...]:
        return (delta,) if delta.text else ()

    def _index(self, event: Any) -> int:
        index = event.output_index
        if not isinstance(index, int) or not 0 <= index < MAX_ITEMS:
            raise ValueError("an item has no place")
        return index

    def _counted(self, piece: str) -> str:
        if not isinstance(piece, str):
            raise TypeError(f"{type(piece).__name__} is no text")
        self._characters += len(piece)
        if self._characters > MAX_CHARACTERS:
            raise BrokenStreamError(f"it is longer than {MAX_CHARACTERS} characters")
        return piece

    def _cut(self) -> FinishReason | None:
        if self._end.get("status") != "incomplete":
            return None
        details = self._end.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        return FinishReason.CONTENT_FILTER if reason == "content_filter" else FinishReason.LENGTH

    def _parts(self, item: JsonObject, *, cut: bool) -> tuple[SaidPart, ...]:
        match item["type"]:
            case "reasoning":
                return self._reasoned(item)
            case "message":
                spoken = (self._spoken(item, content) for content in _objects(item["content"]))
                return tuple(part for part in spoken if part.text)
            case "function_call":
                name, text = _text(item, "name"), _text(item, "arguments")
                arguments = call_arguments(text, name, cut=cut) if text.strip() else {}
                return (ToolCallPart(_text(item, "call_id"), name, arguments),)
            case _ if cut and item.get("status") in ("in_progress", "incomplete"):
                return ()  # a search that came to nothing
            case _:
                return (ProviderPart(self._provider, self._documents.write(item)),)

    def _reasoned(self, item: JsonObject) -> tuple[SaidPart, ...]:
        """A part for each section of the summary; the last one has what is encrypted. One that shows its reasoning
        itself goes back as it is.
        """
        identity, encrypted = _text(item, "id"), str(item.get("encrypted_content") or "")
        if item.get("content"):
            text = "".join(_text(content, "text") for content in _objects(item["content"]))
            return (ThinkingPart(text), ProviderPart(self._provider, self._documents.write(item)))
        texts = [_text(section, "text") for section in _objects(item["summary"])] or [""]
        if not encrypted:
            return tuple(ThinkingPart((SECTION if index else "") + text) for index, text in enumerate(texts) if text)
        last = len(texts) - 1
        return tuple(
            ThinkingPart(
                (SECTION if index else "") + text,
                signature=identity,
                redacted=encrypted if index == last else "",
                provider=self._provider,
            )
            for index, text in enumerate(texts)
        )

    def _spoken(self, item: JsonObject, content: JsonObject) -> TextPart:
        beside: JsonObject = {key: item[key] for key in ("phase",) if item.get(key)}
        if content["type"] == "refusal":
            self._refused = True
            beside["refusal"] = True
        if content.get("annotations"):
            beside["annotations"] = content["annotations"]
        text = _text(content, "refusal" if content["type"] == "refusal" else "text")
        if not beside:
            return TextPart(text)
        return TextPart(text, provider=self._provider, document=self._documents.write(beside))


def _failure(error: object) -> Failure:
    said = cast("JsonObject", error) if isinstance(error, dict) else {}
    code, detail = str(said.get("code") or ""), str(said.get("message") or "")
    return Failure(200, str(said.get("type") or ""), detail, code=code)


def _objects(value: object) -> list[JsonObject]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise TypeError("no list of objects")
    return cast("list[JsonObject]", value)


def _text(item: JsonObject, key: str) -> str:
    found = item[key]
    if not isinstance(found, str):
        raise TypeError(f"{key} is no text")
    return found


def _usage(counts: object) -> Usage:
    def count(where: object, name: str) -> int:
        found = where.get(name) if isinstance(where, dict) else None
        return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0

    said = counts if isinstance(counts, dict) else {}
    read, written = said.get("input_tokens_details"), said.get("output_tokens_details")
    return Usage(
        count(said, "input_tokens"),
        count(said, "output_tokens"),
        count(read, "cached_tokens"),
        count(written, "reasoning_tokens"),
        count(read, "cache_write_tokens"),
    )
