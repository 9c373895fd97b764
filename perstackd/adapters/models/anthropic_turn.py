"""Puts a turn together from the events of Anthropic's stream, and takes nothing for finished that is not.

Source of the events and their order: https://platform.claude.com/docs/en/build-with-claude/streaming
"""

from dataclasses import dataclass, field
from typing import Any, Final, cast

from perstackd.adapters.models.anthropic_tools import CONTAINER, PROVIDER
from perstackd.adapters.models.provider_document import Documents, of_sdk
from perstackd.adapters.models.provider_turn import MAX_CHARACTERS, BrokenStreamError, call_arguments
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

_FINISH: Final = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "tool_use": FinishReason.TOOL_CALLS,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "refusal": FinishReason.CONTENT_FILTER,
}

_OWN_BLOCKS: Final = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})
"""Those that we take apart; of every other one nothing may be lost."""


@dataclass(slots=True)
class _Block:
    type: str
    start: Any
    pieces: list[str] = field(default_factory=list)
    signature: list[str] = field(default_factory=list)
    citations: list[JsonObject] = field(default_factory=list)
    closed: bool = False


class TurnBuilder:
    """Feed it every event in order, then ask for the turn. Any misfit raises `BrokenStreamError`."""

    def __init__(self) -> None:
        self._blocks: dict[int, _Block] = {}
        self._model = ""
        self._usage: dict[str, int] = {}
        self._stop_reason = ""
        self._characters = 0
        self._container: JsonObject = {}
        self.finished = False

    def feed(self, event: Any) -> TextDelta | ThinkingDelta | None:
        """Take in one raw event of the SDK; returns what a watcher can already be shown."""
        try:
            return self._feed(event)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # The SDK builds its values without checking them, so a damaged event shows only where it is used.
            raise BrokenStreamError(f"a {getattr(event, 'type', '?')!r} event is damaged") from error

    def turn(self) -> Turn:
        """The complete turn."""
        if not self.finished:
            raise BrokenStreamError("it ended without message_stop")
        if not self._stop_reason or not all(block.closed for block in self._blocks.values()):
            raise BrokenStreamError("its end came before the end of its parts")
        made = _Parts(cut=_FINISH.get(self._stop_reason) is FinishReason.LENGTH)
        parts = (*(made.part(block) for block in self._whole_blocks()), *made.container(self._container))
        has_calls = any(isinstance(part, ToolCallPart) for part in parts)
        # Reasons that are newer than the table are judged by what the turn holds.
        unnamed = FinishReason.TOOL_CALLS if has_calls else FinishReason.STOP
        return Turn(parts, _FINISH.get(self._stop_reason, unnamed), self._total(), self._model)

    @property
    def paused(self) -> bool:
        """Whether the provider's own tools took so long that the turn must be asked to go on."""
        return self._stop_reason == "pause_turn"

    def _feed(self, event: Any) -> TextDelta | ThinkingDelta | None:
        match event.type:
            case "message_start":
                self._model = str(event.message.model)
                self._ran_in(event.message)
                self._count(event.message.usage)
            case "content_block_start":
                self._blocks[event.index] = _Block(event.content_block.type, event.content_block)
            case "content_block_delta":
                return self._delta(self._blocks[event.index], event.delta)
            case "content_block_stop":
                self._blocks[event.index].closed = True
            case "message_delta":
                self._stop_reason = event.delta.stop_reason or self._stop_reason
                self._ran_in(event.delta)
                self._count(event.usage)
            case "message_stop":
                self.finished = True
            case _:
                pass  # The API adds event types within a version, and says to pass over unknown ones.
        return None

    def _ran_in(self, said: Any) -> None:
        used = getattr(said, CONTAINER, None)
        if used is not None:
            self._container = of_sdk(used)

    def _delta(self, block: _Block, delta: Any) -> TextDelta | ThinkingDelta | None:
        match delta.type:
            case "text_delta":
                return TextDelta(self._add(block.pieces, delta.text))
            case "thinking_delta":
                return ThinkingDelta(self._add(block.pieces, delta.thinking))
            case "signature_delta":
                self._add(block.signature, delta.signature)
            case "input_json_delta":
                self._add(block.pieces, delta.partial_json)
            case "citations_delta":
                block.citations.append(of_sdk(delta.citation))
            case _ if block.type not in _OWN_BLOCKS:
                raise BrokenStreamError(f"a block {block.type!r} has a delta of the unknown type {delta.type!r}")
            case _:
                pass  # Newer kinds carry nothing that we keep.
        return None

    def _add(self, pieces: list[str], piece: str) -> str:
        self._characters += len(piece)
        if self._characters > MAX_CHARACTERS:
            raise BrokenStreamError(f"it is longer than {MAX_CHARACTERS} characters")
        pieces.append(piece)
        return piece

    def _whole_blocks(self) -> list[_Block]:
        """Without a call to a tool of the provider's own that was cut off: it has no result, and never will."""
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        cut = _FINISH.get(self._stop_reason) is FinishReason.LENGTH
        return blocks[:-1] if cut and blocks and blocks[-1].type == "server_tool_use" else blocks

    def _count(self, usage: Any) -> None:
        """Counts are cumulative, and an event may leave out what an earlier one said."""
        names = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        self._usage |= {name: count for name in names if (count := getattr(usage, name, None)) is not None}
        details = getattr(usage, "output_tokens_details", None)
        thinking = getattr(details, "thinking_tokens", None)
        if thinking is not None:
            self._usage["thinking"] = thinking

    def _total(self) -> Usage:
        """The API's input_tokens are only those that neither came from the cache nor went into it."""
        count = self._usage.get
        read, written = count("cache_read_input_tokens", 0), count("cache_creation_input_tokens", 0)
        everything = count("input_tokens", 0) + read + written
        return Usage(everything, count("output_tokens", 0), read, count("thinking", 0), written)


class _Parts:
    """Makes the parts of one turn. `cut` says that a bound ended it."""

    def __init__(self, *, cut: bool) -> None:
        self._cut = cut
        self._documents = Documents()

    def part(self, block: _Block) -> SaidPart:
        match block.type:
            case "text":
                return self._text(block)
            case "thinking":
                text = (block.start.thinking or "") + "".join(block.pieces)
                return ThinkingPart(text, (block.start.signature or "") + "".join(block.signature))
            case "redacted_thinking":
                return ThinkingPart("", redacted=block.start.data)
            case "tool_use":
                return ToolCallPart(block.start.id, block.start.name, self._arguments(block))
            case _:
                return self._provider_block(block)

    def container(self, used: JsonObject) -> tuple[ProviderPart, ...]:
        """Which one the turn's code ran in, if it ran any."""
        if not used.get("id"):
            return ()
        known: JsonObject = {key: used.get(key) for key in ("id", "expires_at")}
        return (ProviderPart(PROVIDER, self._documents.write({"type": CONTAINER, **known})),)

    def _text(self, block: _Block) -> TextPart:
        text = (block.start.text or "") + "".join(block.pieces)
        if not block.citations:
            return TextPart(text)
        citations: JsonObject = {"citations": list(block.citations)}
        return TextPart(text, provider=PROVIDER, document=self._documents.write(citations))

    def _provider_block(self, block: _Block) -> ProviderPart:
        """What a tool of the provider's own was asked, and what it found; also kinds that are newer than this."""
        document = of_sdk(block.start)
        if block.pieces:  # nothing but the input of a call comes in pieces
            document["input"] = self._arguments(block)
        return ProviderPart(PROVIDER, self._documents.write(document))

    def _arguments(self, block: _Block) -> JsonObject:
        text = "".join(block.pieces)
        if not text.strip():
            return cast("JsonObject", block.start.input or {})
        return call_arguments(text, str(getattr(block.start, "name", block.type)), cut=self._cut)
