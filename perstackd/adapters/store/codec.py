"""Canonical JSON of events and records, and back.

A document is UTF-8 with sorted camelCase keys, no spaces, no NaN, and without the fields that have their default:
equal values give equal bytes. It is written once, kept, and sent as it is. Below stand the domain's dataclasses,
above the store and whoever prints an event. Encoding is own code because pydantic neither sorts keys nor keeps the
tags of a union while it leaves defaults out; decoding is one pydantic TypeAdapter, whose parser is native.
"""

import json
import re
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, TypeAlias, cast

from pydantic import ConfigDict, Discriminator, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import SCHEMA, Event, Payload, StoredEvent
from perstackd.domain.job import JobRecord
from perstackd.domain.sandbox import SandboxRecord

MAX_DEPTH: Final = 100
"""Nesting of a document; the decoder's own limit is 200, so what is written can always be read."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NO_BRACKETS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\[\]{}"]++')


# --- writing --------------------------------------------------------------------------------------------------------
_Writer: TypeAlias = Callable[[Any], str]
_JSON: Final = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=dict
)
_quote: Final[_Writer] = json.encoder.encode_basestring


class _Writers(dict[type, _Writer]):
    """A writer per exact type, made when first met."""

    def __missing__(self, cls: type) -> _Writer:
        writer = self[cls] = self._made(cls)
        return writer

    def _made(self, cls: type) -> _Writer:
        if is_dataclass(cls):
            return self._record(cls)
        if issubclass(cls, StrEnum):
            return _quote
        if issubclass(cls, tuple):
            return lambda items: "[" + ",".join([self[type(item)](item) for item in items]) + "]"
        return _JSON.encode

    def _record(self, cls: type) -> _Writer:
        # Generated like a dataclass's own methods: a loop over the fields takes four times as long, and ingest pays it.
        scope: dict[str, Any] = {"W": self}
        pieces = [self._piece(key, field, scope) for key, field in _by_key(cls)]
        source = f"lambda v: '{{' + ({' + '.join(pieces)})[:-1] + '}}'"
        return cast("_Writer", eval(source, scope))  # noqa: S307 - names and keys come from our own classes only

    @staticmethod
    def _piece(key: str, field: Any, scope: dict[str, Any]) -> str:
        value = f"v.{field.name}"
        written = f"'\"{key}\":' + W[type({value})]({value}) + ','"
        if field.name == "type":  # the tag of a union is written though it is a default, and is the same for a class
            return f'\'"type":"{field.default}",\''
        if field.default is MISSING and field.default_factory is MISSING:
            return written
        scope[f"D{field.name}"] = field.default if field.default_factory is MISSING else field.default_factory()
        return f"({written} if {value} != D{field.name} else '')"


def _by_key(cls: type) -> list[tuple[str, Any]]:
    return sorted(((to_camel(field.name), field) for field in fields(cls)), key=lambda pair: pair[0])


_WRITERS: Final = _Writers({str: _quote, int: int.__repr__})


def _text(value: object, what: str) -> str:
    try:
        return _WRITERS[type(value)](value)
    except (ValueError, TypeError, RecursionError) as error:
        message = f"the {what} cannot be written as JSON ({error}); leave out NaN, infinities and over-long numbers"
        raise PerstackError(Kind.INVALID, "payload_invalid", message) from None


def _checked(document: bytes, what: str) -> bytes:
    if document.count(b"[") + document.count(b"{") > MAX_DEPTH and _depth(document) > MAX_DEPTH:
        message = f"the {what} is nested deeper than {MAX_DEPTH} levels; send it as text or flatten it"
        raise PerstackError(Kind.INVALID, "payload_too_deep", message)
    return document


def _depth(document: bytes) -> int:
    deepest = depth = 0
    for bracket in _NO_BRACKETS.sub(b"", document):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def encode(payload: Payload) -> bytes:
    """The payload's document. Characters that UTF-8 does not have (lone surrogates) become U+FFFD.

    Raises:
        PerstackError: INVALID `payload_invalid` (NaN, numbers of thousands of digits), `payload_too_deep`.
    """
    return stored_payload(payload)[0]


def stored_payload(payload: Payload) -> tuple[bytes, Payload]:
    """The document, and the payload as reading it will give it back. Raises as `encode` does."""
    text = _text(payload, payload.type)
    try:
        return _checked(text.encode(), payload.type), payload
    except UnicodeEncodeError:
        document = _checked(repaired(text).encode(), payload.type)
        return document, decode_document(SCHEMA, document)


def stored_event(event: Event) -> StoredEvent:
    """The event with its document. Raises as `encode` does."""
    document, payload = stored_payload(event.payload)
    if payload is event.payload:
        return StoredEvent(event, document)
    kept = Event(event.id, event.seq, event.tenant, event.job_id, event.origin, event.timestamp, payload, event.schema)
    return StoredEvent(kept, document)


def repaired(text: str) -> str:
    """The text with U+FFFD for each character that UTF-8 does not have."""
    return _SURROGATE.sub("\ufffd", text)


def encode_job(record: JobRecord) -> str:
    """The record's document. Raises as `encode` does."""
    return repaired(_text(record, "job record"))


def encode_sandbox(record: SandboxRecord) -> str:
    """The record's document. Raises as `encode` does."""
    return repaired(_text(record, "sandbox record"))


def encode_value(value: object) -> bytes:
    """The document of any value of the domain, or of a tuple of them. Raises as `encode` does."""
    return _checked(repaired(_text(value, "value")).encode(), "value")


# --- reading --------------------------------------------------------------------------------------------------------
def _adapter(of: Any) -> TypeAdapter[Any]:
    # The domain writes its recursive JSON alias as a string, which pydantic cannot follow without end. It looks names
    # up in this frame first: what a JSON parser returns needs no second check.
    JsonValue = Any  # noqa: F841, N806
    return TypeAdapter(of, config=ConfigDict(alias_generator=to_camel))


_PAYLOAD: Final = _adapter(Annotated[Payload, Discriminator("type")])
_JOB: Final = _adapter(JobRecord | None)  # pydantic refuses a configuration for a bare dataclass, hence the None
_SANDBOX: Final = _adapter(SandboxRecord | None)


def decode(type: str, schema: int, document: bytes) -> Payload:  # noqa: A002
    """The payload of a document of that type and schema version; fields that this version does not know are left out.

    Raises:
        PerstackError: PRECONDITION `event_newer` when a later version wrote it (schema or type not known here);
            PRECONDITION `store_corrupt` when it is not a document of that type.
    """
    payload = decode_document(schema, document)
    if payload.type != type:
        raise _corrupt(f"{type} event", f"its document says {payload.type}")
    return payload


def decode_document(schema: int, document: bytes) -> Payload:
    """As `decode`, of the type that the document itself names."""
    if schema > SCHEMA:
        message = f"an event has schema {schema}, this perstackd reads up to {SCHEMA}; start the newer version again"
        raise PerstackError(Kind.PRECONDITION, "event_newer", message, fields={"schema": str(schema)})
    return cast("Payload", _read(_PAYLOAD, document, "event"))


def decode_job(document: str) -> JobRecord:
    """The record of a document. Raises PerstackError PRECONDITION `store_corrupt`."""
    return cast("JobRecord", _read(_JOB, document, "job record"))


def decode_sandbox(document: str) -> SandboxRecord:
    """The record of a document. Raises PerstackError PRECONDITION `store_corrupt`."""
    return cast("SandboxRecord", _read(_SANDBOX, document, "sandbox record"))


def _read(adapter: TypeAdapter[Any], document: bytes | str, what: str) -> object:
    try:
        value = adapter.validate_json(document)
        if value is None:
            raise _corrupt(what, "it is null")
    except ValidationError as error:
        raise _refusal(what, error) from None
    else:
        return cast("object", value)


def _refusal(what: str, error: ValidationError) -> PerstackError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "union_tag_invalid":
        message = (
            f"the store holds an {what} of a type that this perstackd does not know; start the newer version again"
        )
        return PerstackError(Kind.PRECONDITION, "event_newer", message)
    where = ".".join(str(part) for part in first["loc"])
    return _corrupt(what, f"{first['msg']} at {where or 'its start'}")


def _corrupt(what: str, detail: str) -> PerstackError:
    message = f"the store holds a {what} that cannot be read: {detail}; restore the state directory from a backup"
    return PerstackError(Kind.PRECONDITION, "store_corrupt", message)
