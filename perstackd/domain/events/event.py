"""An event around its payload: its place in the job's log, as it is kept, and pieces that are only live."""

from dataclasses import dataclass

from perstackd.domain.events.payload import SCHEMA, Payload
from perstackd.domain.ids import EventId, JobId, RunId, TenantId


@dataclass(frozen=True, slots=True)
class Origin:
    """Which run an event is of; empty ids for events of the job itself."""

    run_id: RunId = RunId("")
    parent_run_id: RunId = RunId("")
    expert_key: str = ""
    step: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """A fact with its place. `seq` counts 1, 2, 3 ... per job; `timestamp` is milliseconds since the epoch."""

    id: EventId
    seq: int
    tenant: TenantId
    job_id: JobId
    origin: Origin
    timestamp: int
    payload: Payload
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it is kept and sent: the payload's canonical JSON was written once and is never made again."""

    event: Event
    document: bytes


@dataclass(frozen=True, slots=True)
class StreamPiece:
    """A live-only piece of text: `offset` in UTF-8 bytes of the text that `stream_id` names."""

    after_seq: int
    stream_id: str
    offset: int
    type: str
    job_id: JobId
    origin: Origin
    delta: str
    call_id: str = ""
