"""Reading an event's payload: canonical JSON, camelCase keys, fields that have their default left out."""

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final, TypeAlias

from perstackctl.amounts import dollars
from perstackctl.client.errors import ProtocolError
from perstackctl.client.questions import Question, QuestionKind
from perstackctl.client.values import Event, Usage
from perstackctl.output import elapsed

_LONGEST_ERROR: Final = 65_536
_KINDS: Final = {kind.value: kind for kind in QuestionKind}

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


def texts(fields: Fields, key: str) -> tuple[str, ...]:
    """A list of texts; empty when it is left out."""
    value = fields.get(key)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


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


def questions(event: Event, fields: Fields) -> tuple[Question, ...]:
    """What an event asks a person: one question, or a list of them. Ids are made unique in the job."""
    asked = (*items(fields, "questions"), *([member(fields, "question")] if "question" in fields else ()))
    return tuple(
        Question(
            id=f"{event.run_id}.{text(each, 'id')}",
            kind=_KINDS.get(text(each, "kind"), QuestionKind.UNSPECIFIED),
            run_id=event.run_id,
            expert_key=event.expert_key,
            skill=text(each, "skill"),
            tool=text(each, "tool"),
            arguments=member(each, "arguments"),
            message=text(each, "message"),
            answer_schema=member(each, "answerSchema"),
            asked_at=event.timestamp,
        )
        for each in asked
    )


def limit(fields: Fields) -> str:
    """The limit of a budget for people: 200,000 tokens, $0.50, 10m00s."""
    name, most = text(fields, "budget"), number(fields, "limit")
    match name:
        case "wallClock":
            return elapsed(most)
        case "money":
            return dollars(most)
        case "toolCalls":
            return f"{most:,} tool calls"
        case _:
            return f"{most:,} {name}"


def words(value: Mapping[str, Any], longest: int = 400) -> str:
    """The members of an object as name=value, for people; not cleaned."""
    written = (f"{name}={_value(item, longest)}" for name, item in islice(value.items(), 64))
    return " ".join(written)[:longest]


def arguments(call: Fields, longest: int = 400) -> str:
    """A call's arguments as name=value, for people; not cleaned."""
    return words(member(call, "arguments"), longest)


def _value(value: Any, longest: int) -> str:
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))[:longest]
