"""Reading an event's payload: canonical JSON, camelCase keys, fields that have their default left out."""

import json
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from perstackctl.client.errors import ProtocolError
from perstackctl.client.values import Event, Usage

_LONGEST_ERROR: Final = 65_536

Fields: TypeAlias = Mapping[str, Any]


def fields_of(event: Event) -> Fields:
    """The payload's members.

    Raises:
        ProtocolError: it is not a JSON object.
    """
    try:
        value = json.loads(event.payload)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ProtocolError(
            f"event {event.seq} ({event.type}) of job {event.job_id} is not a JSON object; "
            "daemon and perstackctl are of different versions (perstackctl system info)"
        )
    return value


def text(fields: Fields, key: str) -> str:
    """A text; empty when it is left out."""
    value = fields.get(key, "")
    return value if isinstance(value, str) else ""


def number(fields: Fields, key: str) -> int:
    """A whole number; 0 when it is left out."""
    value = fields.get(key, 0)
    return value if isinstance(value, int) else 0


def items(fields: Fields, key: str) -> tuple[Fields, ...]:
    """A list of objects; empty when it is left out."""
    value = fields.get(key)
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def member(fields: Fields, key: str) -> Fields:
    """An object; empty when it is left out or null."""
    value = fields.get(key)
    return value if isinstance(value, dict) else {}


def usage(fields: Fields) -> Usage:
    """The tokens of a turn or a run."""
    counts = member(fields, "usage")
    return Usage(
        number(counts, "inputTokens"),
        number(counts, "outputTokens"),
        number(counts, "cachedInputTokens"),
        number(counts, "reasoningTokens"),
    )


def parts(fields: Fields, key: str, kind: str) -> tuple[Fields, ...]:
    """The parts of one type in a list of parts."""
    return tuple(part for part in items(fields, key) if part.get("type") == kind)


def joined(fields: Fields, key: str) -> str:
    """The visible text of a list of parts; blobs are named by their type and size."""
    return "".join(map(_shown, items(fields, key)))


def _shown(part: Fields) -> str:
    match part.get("type"):
        case "text":
            return text(part, "text")
        case "blob":
            return f"[{text(part, 'mediaType')}, {number(part, 'size'):,} bytes]"
        case _:
            return ""


def error_words(content: str) -> str:
    """The words of a tool's error: base tools write {error, message}, others what they like."""
    try:
        error = json.loads(content) if content.startswith("{") and len(content) < _LONGEST_ERROR else None
    except (ValueError, RecursionError):
        error = None
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return content
    return f"{text(error, 'error')}: {error['message']}" if text(error, "error") else str(error["message"])


def arguments(call: Fields, longest: int = 400) -> str:
    """A call's arguments as name=value, for people; not cleaned."""
    written = (f"{name}={_value(value, longest)}" for name, value in member(call, "arguments").items())
    return " ".join(written)[:longest]


def _value(value: Any, longest: int) -> str:
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))[:longest]
