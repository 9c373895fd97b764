"""What is said between an expert and its model, independent of any provider."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = "dict[str, JsonValue]"


class Role(StrEnum):
    """Who speaks. The system prompt is not a message."""

    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class TextPart:
    """Plain text."""

    text: str
    type: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class ThinkingPart:
    """A model's reasoning. `signature` and `redacted` go back to the provider untouched, also when the text is
    empty.
    """

    text: str
    signature: str = ""
    redacted: str = ""
    type: Literal["thinking"] = "thinking"


@dataclass(frozen=True, slots=True)
class BlobPart:
    """Bytes in the content-addressed store: digest `sha256:HEX`, size in bytes."""

    digest: str
    size: int
    media_type: str
    type: Literal["blob"] = "blob"


@dataclass(frozen=True, slots=True)
class ToolCallPart:
    """A call that the model makes, by the name that it was shown."""

    call_id: str
    name: str
    arguments: JsonObject
    type: Literal["toolCall"] = "toolCall"


@dataclass(frozen=True, slots=True)
class ToolResultPart:
    """What came of a call. `content` is text and blobs, in order."""

    call_id: str
    content: "tuple[TextPart | BlobPart, ...]"
    is_error: bool = False
    type: Literal["toolResult"] = "toolResult"


Part: TypeAlias = TextPart | ThinkingPart | BlobPart | ToolCallPart | ToolResultPart


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of a run's history."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them; `cached_input` is the part of `input` that came from its prompt cache."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens - other.input_tokens,
            self.output_tokens - other.output_tokens,
            self.cached_input_tokens - other.cached_input_tokens,
            self.reasoning_tokens - other.reasoning_tokens,
        )


class FinishReason(StrEnum):
    """Why a turn ended."""

    STOP = "stop"
    TOOL_CALLS = "toolCalls"
    LENGTH = "length"
    CONTENT_FILTER = "contentFilter"


@dataclass(frozen=True, slots=True)
class Turn:
    """One complete answer of a model."""

    parts: tuple[TextPart | ThinkingPart | ToolCallPart, ...]
    finish_reason: FinishReason
    usage: Usage = Usage()
    model: str = ""

    @property
    def text(self) -> str:
        """The visible text, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def calls(self) -> tuple[ToolCallPart, ...]:
        """The calls, in the model's order."""
        return tuple(part for part in self.parts if isinstance(part, ToolCallPart))


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as it is shown to a model, and who owns it: `skill` is empty for base tools and delegates."""

    name: str
    description: str
    input_schema: Mapping[str, JsonValue]
    read_only: bool = False
    idempotent: bool = False


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """All that a model call depends on; equal requests have equal digests. Nothing in it varies by run, time or path.

    `reasoning` is `none`, `minimal`, `low`, `medium`, `high` or a number of tokens. `max_tokens` bounds the answer.
    """

    provider: str
    model: str
    system: str
    tools: tuple[ToolSpec, ...]
    messages: tuple[Message, ...]
    reasoning: str | int = "low"
    max_tokens: int = 8192
    base_url: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    timeout_ms: int = 300_000


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of a turn's visible text."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """The next piece of a turn's reasoning."""

    text: str


ModelEvent: TypeAlias = TextDelta | ThinkingDelta | Turn
