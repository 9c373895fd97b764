"""About how many tokens something takes, where no provider has counted it yet: rather too many than too few."""

import json
from collections.abc import Iterable
from typing import Final, assert_never

from perstackd.domain.messages import (
    BlobPart,
    Message,
    Part,
    ProviderPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)

BYTES_A_TOKEN: Final = 3
"""Prose has four to five, code and JSON about three, Chinese and Japanese three."""
_FRAME: Final = 8  # what a provider puts around a part
IMAGE_TOKENS: Final = 1600
_DOCUMENT_BYTES_A_TOKEN: Final = 30
_MOST_FOR_A_DOCUMENT: Final = 100_000


def prompt_tokens(system: str, tools: Iterable[ToolSpec]) -> int:
    """Of what stands before a history."""
    shown = sum(text_tokens(tool.name + tool.description + _json(dict(tool.input_schema))) + _FRAME for tool in tools)
    return text_tokens(system) + shown


def message_tokens(message: Message) -> int:
    """Of one message."""
    return parts_tokens(message.parts)


def parts_tokens(parts: Iterable[Part]) -> int:
    """Of some parts of a message."""
    return sum(_FRAME + _part_tokens(part) for part in parts)


def text_tokens(text: str) -> int:
    """Of a text."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // BYTES_A_TOKEN)


def _part_tokens(part: Part) -> int:
    match part:
        case TextPart(text=text):
            return text_tokens(text)
        case ThinkingPart(text=text, redacted=redacted):
            return text_tokens(text) + text_tokens(redacted)
        case ToolCallPart():
            return text_tokens(part.name) + text_tokens(_json(part.arguments))
        case ToolResultPart(content=content):
            return parts_tokens(content)
        case ProviderPart(document=document):
            return text_tokens(document)
        case BlobPart():
            return _blob_tokens(part)
        case _:
            assert_never(part)


def _blob_tokens(blob: BlobPart) -> int:
    """Of an image or a document that is shown; anything else is told of in a few words."""
    if blob.media_type.startswith("image/"):
        return IMAGE_TOKENS
    if blob.media_type == "application/pdf":
        return min(blob.size // _DOCUMENT_BYTES_A_TOKEN, _MOST_FOR_A_DOCUMENT)
    return 5 * _FRAME


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
