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
    """Plain text. What a provider wrote beside it (citations, an id) is in `document`, canonical JSON; it goes back to
    that `provider` untouched, and to nobody else.
    """

    text: str
    type: Literal["text"] = "text"
    provider: str = ""
    document: str = ""


@dataclass(frozen=True, slots=True)
class ThinkingPart:
    """A model's reasoning. `signature` and `redacted` go back to the provider untouched, also when the text is
    empty. `provider` is whose they are, so that nobody else is sent them; empty means anthropic.
    """

    text: str
    signature: str = ""
    redacted: str = ""
    type: Literal["thinking"] = "thinking"
    provider: str = ""


@dataclass(frozen=True, slots=True)
class ProviderPart:
    """A block that only its provider understands, such as what its own tools were asked and found: canonical JSON that
    goes back to that `provider` untouched, in its place, and to nobody else.
    """

    provider: str
    document: str
    type: Literal["provider"] = "provider"


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


SaidPart: TypeAlias = TextPart | ThinkingPart | ToolCallPart | ProviderPart
"""What a model can say."""

Part: TypeAlias = TextPart | ThinkingPart | BlobPart | ToolCallPart | ToolResultPart | ProviderPart


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of a run's history."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them; `cached_input` is the part of `input` that came from its prompt cache, and
    `cache_write` the part that went into it, where the provider counts that.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
        )

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens - other.input_tokens,
            self.output_tokens - other.output_tokens,
            self.cached_input_tokens - other.cached_input_tokens,
            self.reasoning_tokens - other.reasoning_tokens,
            self.cache_write_tokens - other.cache_write_tokens,
        )


class FinishReason(StrEnum):
    """Why a turn ended."""

    STOP = "stop"
    TOOL_CALLS = "toolCalls"
    LENGTH = "length"
    CONTENT_FILTER = "contentFilter"


@dataclass(frozen=True, slots=True)
class Turn:
    """One complete answer of a model. `notes` are sentences on what the request asked for and the provider was asked
    for in another form, or not at all; the same request has the same notes.
    """

    parts: tuple[SaidPart, ...]
    finish_reason: FinishReason
    usage: Usage = Usage()
    model: str = ""
    notes: tuple[str, ...] = ()

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
class ProviderSkill:
    """A skill that the provider itself keeps and runs: `kind` is `builtin` or `custom`; no `version` is the latest."""

    kind: str
    skill_id: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """All that a model call depends on; equal requests have equal digests. Nothing in it varies by run, time or path.

    `reasoning` is `none`, `minimal`, `low`, `medium`, `high` or a number of tokens. `max_tokens` bounds the answer.
    `provider_tools` are names as in a definition; `provider_tool_options` is canonical JSON by those names, or empty.
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
    provider_tools: tuple[str, ...] = ()
    provider_tool_options: str = ""
    provider_skills: tuple[ProviderSkill, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of a turn's visible text."""

    text: str


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """The next piece of a turn's reasoning."""

    text: str


ModelEvent: TypeAlias = TextDelta | ThinkingDelta | Turn
