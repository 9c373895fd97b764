"""Values to rows and back: places in the log, ids in 16 bytes, origins once per run."""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from perstackd.adapters.clock import ulid_text
from perstackd.adapters.store import codec, queries
from perstackd.adapters.store.sequence import MAX_SEQ
from perstackd.domain.blob_references import blobs_of
from perstackd.domain.events import Event, Origin, StoredEvent
from perstackd.domain.ids import EventId, JobId, RunId, TenantId, is_id
from perstackd.domain.job import JobRecord

SEQ_BITS: Final = 32  # MAX_SEQ fills them

_REFERENCE: Final = re.compile(rb'"type":"blob"|"definitionDigest"')
"""Few events refer to a blob; the others are not looked into."""

_TO_BASE_32: Final = str.maketrans("ABCDEFGHJKMNPQRSTVWXYZ", "abcdefghijklmnopqrstuv")


def packed(id_: str) -> bytes | str:
    """16 bytes of a ULID; any other id as it is."""
    return int(id_.translate(_TO_BASE_32), 32).to_bytes(16, "big") if is_id(id_) else id_


def unpacked(stored: bytes | str) -> EventId:
    """The id that `packed` was given."""
    return EventId(stored if isinstance(stored, str) else ulid_text(int.from_bytes(stored, "big")))


def job_columns(job: JobRecord) -> tuple[int, str]:
    """`last_seq` and the record's document, which leaves out the query."""
    return job.last_seq, codec.encode_job(replace(job, query=""))


def job_of(row: Sequence[Any]) -> JobRecord:
    """The record of a row of `record, query`."""
    return replace(codec.decode_job(row[0]), query=row[1])


def write_events(connection: sqlite3.Connection, job_no: int, stored: Sequence[StoredEvent]) -> None:
    """Insert the events of one job, and which blobs they need. Raises sqlite3.Error."""
    connection.executemany(queries.INSERT_EVENT, _event_rows(connection, job_no, stored))
    needed = {digest for item in stored if _REFERENCE.search(item.document) for digest in blobs_of(item.event.payload)}
    connection.executemany(queries.INSERT_BLOB_USE, [(job_no, digest) for digest in sorted(needed)])


def _event_rows(
    connection: sqlite3.Connection, job_no: int, stored: Iterable[StoredEvent]
) -> Iterator[tuple[object, ...]]:
    numbers: dict[tuple[str, str, str], int] = {}
    for item in stored:
        event, origin = item.event, item.event.origin
        key = (origin.run_id, origin.parent_run_id, origin.expert_key)
        number = numbers.get(key)
        if number is None:
            number = numbers[key] = _origin_no(connection, (job_no, *key))
        place = job_no << SEQ_BITS | event.seq
        yield place, packed(event.id), number, origin.step, event.timestamp, event.schema, item.document


def _origin_no(connection: sqlite3.Connection, key: tuple[int, str, str, str]) -> int:
    found = connection.execute(queries.SELECT_ORIGIN, key).fetchone()
    return int((found or connection.execute(queries.INSERT_ORIGIN, key).fetchone())[0])


def read_events(connection: sqlite3.Connection, job_id: JobId, after_seq: int, limit: int) -> tuple[StoredEvent, ...]:
    """Events of a job in order. Raises sqlite3.Error; PerstackError `store_corrupt`, `event_newer`."""
    found = connection.execute(queries.SELECT_TENANT, (job_id,)).fetchone()
    if found is None:
        return ()
    job_no, tenant = found
    first = job_no << SEQ_BITS
    after = first + min(max(after_seq, 0), MAX_SEQ)
    rows = connection.execute(queries.SELECT_EVENTS, (after, first + MAX_SEQ, max(limit, 0))).fetchall()
    return tuple(_stored(rows, job_id, TenantId(tenant)))


def _stored(rows: Sequence[tuple[Any, ...]], job_id: JobId, tenant: TenantId) -> Iterator[StoredEvent]:
    origins: dict[tuple[int, int], Origin] = {}
    for place, id_, number, step, timestamp, schema, document, run_id, parent_run_id, expert_key in rows:
        origin = origins.get((number, step))
        if origin is None:
            origin = origins[number, step] = Origin(RunId(run_id), RunId(parent_run_id), expert_key, step)
        payload = codec.decode_document(schema, document)
        event = Event(unpacked(id_), place & MAX_SEQ, tenant, job_id, origin, timestamp, payload, schema)
        yield StoredEvent(event, document)
