"""The file of a recorded conversation: JSON lines, each a request's digest and the turn that answered it.

    {"digest": "sha256:HEX", "expert": "fitness-assistant", "note": "free text", "turn": {...}}

`expert` and `note` are for readers. Of two lines with one digest the later counts, so recording again into the same
file replaces what it repeats.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import (
    BlobPart,
    FinishReason,
    JsonObject,
    Message,
    ModelEvent,
    Part,
    ProviderPart,
    SaidPart,
    TextDelta,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
    Usage,
)

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_PIECES: Final = 4


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """One line of the file."""

    digest: str
    expert: str
    turn: Turn
    note: str = ""


def events_of(turn: Turn) -> Iterator[ModelEvent]:
    """A turn as a provider would stream it: each text in a few pieces, then the turn."""
    for part in turn.parts:
        match part:
            case TextPart():
                yield from (TextDelta(piece) for piece in _pieces(part.text))
            case ThinkingPart():
                yield from (ThinkingDelta(piece) for piece in _pieces(part.text))
            case ToolCallPart() | ProviderPart():
                pass
    yield turn


def encode(recorded: RecordedTurn) -> str:
    """The line, without its end."""
    usage = recorded.turn.usage
    line: dict[str, object] = {"digest": recorded.digest, "expert": recorded.expert}
    if recorded.note:
        line["note"] = recorded.note
    turn: dict[str, object] = {
        "parts": [_part_json(part) for part in recorded.turn.parts],
        "finishReason": recorded.turn.finish_reason.value,
        "usage": {
            "inputTokens": usage.input_tokens,
            "outputTokens": usage.output_tokens,
            "cachedInputTokens": usage.cached_input_tokens,
            "reasoningTokens": usage.reasoning_tokens,
            **({"cacheWriteTokens": usage.cache_write_tokens} if usage.cache_write_tokens else {}),
        },
        "model": recorded.turn.model,
    }
    if recorded.turn.notes:
        turn["notes"] = list(recorded.turn.notes)
    line["turn"] = turn
    return json.dumps(line, separators=(", ", ": "))


def decode(line: str, source: str, number: int) -> RecordedTurn:
    """One line into its turn; `source` and `number` are named in errors.

    Raises:
        PerstackError: INVALID `conversation_invalid`, with what is wrong and where.
    """
    try:
        return _recorded(_object(json.loads(line), "the line"))
    except json.JSONDecodeError as error:
        raise _invalid(source, number, f"no JSON: {error.msg} at column {error.colno}") from None
    except _FormError as error:
        raise _invalid(source, number, str(error)) from None


def message_json(message: Message) -> dict[str, object]:
    """A message as plain data: what its digest is made of, so a change here makes recorded conversations unknown."""
    return {"role": message.role.value, "parts": [_part_json(part) for part in message.parts]}


class _FormError(ValueError):
    """Something that the form does not allow, in words."""


def _part_json(part: Part) -> dict[str, object]:
    match part:
        case TextPart():
            return {"type": part.type, "text": part.text, **_if_any(provider=part.provider, document=part.document)}
        case ThinkingPart():
            said = {"type": part.type, "text": part.text, "signature": part.signature, "redacted": part.redacted}
            return {**said, **_if_any(provider=part.provider)}
        case BlobPart():
            return {"type": part.type, "digest": part.digest, "size": part.size, "mediaType": part.media_type}
        case ToolCallPart():
            return {"type": part.type, "callId": part.call_id, "name": part.name, "arguments": part.arguments}
        case ToolResultPart():
            content = [_part_json(item) for item in part.content]
            return {"type": part.type, "callId": part.call_id, "content": content, "isError": part.is_error}
        case ProviderPart():
            return {"type": part.type, "provider": part.provider, "document": part.document}


def _if_any(**texts: str) -> dict[str, object]:
    """Those that are not empty: what they are not part of has the digest that it always had."""
    return {key: text for key, text in texts.items() if text}


def _pieces(text: str) -> Iterator[str]:
    size = max(1, -(-len(text) // _PIECES))
    return (text[start : start + size] for start in range(0, len(text), size))


def _recorded(line: Mapping[str, Any]) -> RecordedTurn:
    _only(line, "the line", {"digest", "expert", "note", "turn"})
    digest = _text(line, "digest")
    if not _DIGEST.fullmatch(digest):
        raise _FormError(f'"digest" must be sha256: and 64 hexadecimal digits, not {digest[:80]!r}')
    turn = _turn(_object(_required(line, "turn"), '"turn"'))
    return RecordedTurn(digest, _text(line, "expert"), turn, _text(line, "note", ""))


def _turn(turn: Mapping[str, Any]) -> Turn:
    _only(turn, '"turn"', {"parts", "finishReason", "usage", "model", "notes"})
    reason = _text(turn, "finishReason")
    if reason not in set(FinishReason):
        raise _FormError(f'"finishReason" must be one of {", ".join(FinishReason)}, not {reason!r}')
    parts = _required(turn, "parts")
    if not isinstance(parts, list):
        raise _FormError('"parts" must be an array')
    usage = _usage(_object(turn.get("usage", {}), '"usage"'))
    said = tuple(_turn_part(part) for part in parts)
    return Turn(said, FinishReason(reason), usage, _text(turn, "model", ""), _notes(turn.get("notes", [])))


def _notes(notes: object) -> tuple[str, ...]:
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise _FormError('"notes" must be an array of strings')
    return tuple(notes)


def _turn_part(value: object) -> SaidPart:
    part = _object(value, "a part")
    match _text(part, "type"):
        case "text":
            _only(part, "a text part", {"type", "text", "provider", "document"})
            provider, document = _text(part, "provider", ""), _document(part)
            return TextPart(_text(part, "text"), provider=provider, document=document)
        case "thinking":
            _only(part, "a thinking part", {"type", "text", "signature", "redacted", "provider"})
            signature, redacted = _text(part, "signature", ""), _text(part, "redacted", "")
            return ThinkingPart(_text(part, "text"), signature, redacted, provider=_text(part, "provider", ""))
        case "toolCall":
            _only(part, "a toolCall part", {"type", "callId", "name", "arguments"})
            arguments = _object(_required(part, "arguments"), '"arguments"')
            return ToolCallPart(_text(part, "callId"), _text(part, "name"), cast("JsonObject", arguments))
        case "provider":
            _only(part, "a provider part", {"type", "provider", "document"})
            return ProviderPart(_text(part, "provider"), _document(part))
        case other:
            raise _FormError(f"a part's type must be text, thinking, toolCall or provider, not {other!r}")


def _document(part: Mapping[str, Any]) -> str:
    document = _text(part, "document", "")
    if document:
        _object(json.loads(document), '"document"')
    return document


def _usage(usage: Mapping[str, Any]) -> Usage:
    names = ("inputTokens", "outputTokens", "cachedInputTokens", "reasoningTokens", "cacheWriteTokens")
    _only(usage, '"usage"', set(names))
    for name, value in usage.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise _FormError(f'"usage.{name}" must be a whole number, not {value!r}')
    return Usage(*(usage.get(name, 0) for name in names))


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _FormError(f"{what} must be a JSON object")
    return value


def _only(value: Mapping[str, Any], what: str, known: set[str]) -> None:
    unknown = sorted(set(value) - known)
    if unknown:
        raise _FormError(f"{what} has the unknown key {unknown[0]!r}; it may have {', '.join(sorted(known))}")


def _required(value: Mapping[str, Any], key: str) -> object:
    if key not in value:
        raise _FormError(f'"{key}" is missing')
    return value[key]


def _text(value: Mapping[str, Any], key: str, default: str | None = None) -> str:
    found = _required(value, key) if default is None else value.get(key, default)
    if not isinstance(found, str):
        raise _FormError(f'"{key}" must be a string')
    return found


def _invalid(source: str, number: int, what: str) -> PerstackError:
    return PerstackError(
        Kind.INVALID,
        "conversation_invalid",
        f"{source}, line {number}: {what}. Correct the line or record the conversation again.",
        fields={"file": source, "line": str(number)},
    )
