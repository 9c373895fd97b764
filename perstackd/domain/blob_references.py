"""Which blobs an event refers to: those keep their bytes for as long as the event's job is kept."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from perstackd.domain.events import JobCreated, Payload
from perstackd.domain.messages import BlobPart


def blobs_of(payload: Payload) -> frozenset[str]:
    """Digests of the definition and of every blob part, wherever in the payload it is."""
    own = (payload.definition_digest,) if isinstance(payload, JobCreated) else ()
    return frozenset((*own, *_parts(payload)))


def _parts(value: object) -> Iterator[str]:
    if isinstance(value, BlobPart):
        yield value.digest
    elif isinstance(value, tuple):
        for item in value:
            yield from _parts(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _parts(getattr(value, field.name))
