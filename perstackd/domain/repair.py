"""Text that UTF-8 has no bytes for: a model may send half of a surrogate pair, and no wire or file takes it."""

import re
from dataclasses import replace
from typing import Final, cast

from perstackd.domain.messages import (
    JsonObject,
    JsonValue,
    ProviderPart,
    SaidPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    Turn,
)

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def repaired(text: str) -> str:
    """`text` with U+FFFD for each lone surrogate; the same object when there is none."""
    return _SURROGATE.sub("\ufffd", text) if not text.isascii() and _SURROGATE.search(text) else text


def repaired_turn(turn: Turn) -> Turn:
    """A turn as it will be read back from the log, so that what runs and what is kept are one."""
    return replace(turn, parts=tuple(_part(part) for part in turn.parts), model=repaired(turn.model))


def _part(part: SaidPart) -> SaidPart:
    match part:
        case TextPart(text=text):
            return replace(part, text=repaired(text))
        case ThinkingPart(text=text):
            return replace(part, text=repaired(text))
        case ToolCallPart():
            arguments = cast("JsonObject", _value(part.arguments))
            return ToolCallPart(repaired(part.call_id), repaired(part.name), arguments)
        case ProviderPart():
            return part  # its document is made of what UTF-8 has


def _value(value: JsonValue) -> JsonValue:
    match value:
        case str():
            return repaired(value)
        case list():
            return [_value(each) for each in value]
        case dict():
            return {repaired(key): _value(each) for key, each in value.items()}
        case _:
            return value
