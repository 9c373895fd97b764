"""What leaves the store: jobs with all that is theirs, blobs that no job needs, pages that hold nothing."""

import sqlite3
from typing import Final

from perstackd.adapters.store import queries, rows
from perstackd.adapters.store.blobs import FileBlobs
from perstackd.adapters.store.connections import PAGE_SIZE
from perstackd.adapters.store.readers import Readers
from perstackd.adapters.store.sequence import MAX_SEQ, not_ended
from perstackd.adapters.store.writer import Writer
from perstackd.domain.ids import JobId
from perstackd.domain.job import JobState

_PAGES_AT_ONCE: Final = 500  # of a moment in which nothing else is written


class SqliteHousekeeping:
    """See `perstackd.ports.event_store.Housekeeping`."""

    def __init__(self, writer: Writer, readers: Readers, blobs: FileBlobs) -> None:
        self._writer = writer
        self._readers = readers
        self._blobs = blobs

    async def delete(self, job_id: JobId, put_before_ms: int) -> bool:
        unneeded = await self._writer.run(lambda connection: _delete(connection, job_id))
        if unneeded is None:
            return False
        await self._blobs.remove(unneeded, put_before_ms / 1000)
        return True

    async def sweep(self, put_before_ms: int) -> int:
        kept = await self._blobs.all()
        needed = await self._readers.run(
            lambda connection: {digest for (digest,) in connection.execute(queries.SELECT_BLOB_USES).fetchall()}
        )
        return await self._blobs.remove((digest for digest in kept if digest not in needed), put_before_ms / 1000)

    async def blobs_of(self, job_id: JobId) -> tuple[str, ...]:
        return await self._readers.run(
            lambda connection: tuple(
                digest for (digest,) in connection.execute(queries.SELECT_JOB_BLOBS, (job_id,)).fetchall()
            )
        )

    async def compact(self) -> int:
        freed = 0
        while pages := await self._writer.run(_shrink):
            freed += pages
        return freed * PAGE_SIZE


def _delete(connection: sqlite3.Connection, job_id: JobId) -> list[str] | None:
    """Digests that nobody needs once the job is gone; None when it is not there."""
    found = connection.execute(queries.SELECT_STATE, (job_id,)).fetchone()
    if found is None:
        return None
    job_no, state = found
    if not JobState(state).final:
        raise not_ended(job_id, state)
    used = [digest for (digest,) in connection.execute(queries.SELECT_JOB_BLOBS, (job_id,)).fetchall()]
    first = job_no << rows.SEQ_BITS
    connection.execute(queries.DELETE_EVENTS, (first, first + MAX_SEQ))
    connection.execute(queries.DELETE_JOB, (job_no,))
    return [digest for digest in used if connection.execute(queries.SELECT_BLOB_USED, (digest,)).fetchone() is None]


def _shrink(connection: sqlite3.Connection) -> int:
    """Pages that went back to the file system; 0 when there is no more to give, or the file cannot shrink."""
    before = _pages(connection)
    connection.execute(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})").fetchall()
    return before - _pages(connection)


def _pages(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA page_count").fetchone()[0])
