"""The store of one daemon: a SQLite file and a directory of blobs below the state directory.

`open_store` checks and migrates; `close` ends in this order: the writer commits what it took, blobs and reads finish,
the file is closed, which folds the log back into it.
"""

import asyncio
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from perstackd.adapters.store import codec, failures, queries, rows
from perstackd.adapters.store.blobs import FileBlobs
from perstackd.adapters.store.connections import open_writer
from perstackd.adapters.store.housekeeping import SqliteHousekeeping
from perstackd.adapters.store.readers import Readers
from perstackd.adapters.store.secrets import SqliteSealedEnvs, SqliteSecrets
from perstackd.adapters.store.sequence import check_sequence, job_exists, job_not_found, key_used, seq_conflict
from perstackd.adapters.store.writer import Writer
from perstackd.domain.events import Event, StoredEvent
from perstackd.domain.ids import JobId, SandboxId, TenantId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.sandbox import SandboxRecord
from perstackd.ports.event_store import Blobs, Housekeeping, JobIndex, SandboxIndex
from perstackd.ports.secret_store import SealedEnvs, SecretRows


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """`waiting_*` bound the calls in hand, more wait; `busy_timeout_ms` bounds the wait for another process."""

    waiting_writes: int = 1024
    waiting_reads: int = 256
    waiting_blobs: int = 32
    reader_threads: int = 2
    blob_threads: int = 2
    busy_timeout_ms: int = 5000


async def open_store(state_directory: Path, limits: StoreLimits = StoreLimits()) -> "SqliteStore":
    """Open `state_directory`/perstackd.db and blobs/, made when missing; the schema is current on return.

    Raises:
        PerstackError: PRECONDITION `store_newer`, `store_foreign`, `store_corrupt`; UNAVAILABLE `store_unavailable`.
    """
    path = state_directory / "perstackd.db"
    connection = await asyncio.to_thread(_open, state_directory, path, limits.busy_timeout_ms)
    try:
        blobs = await FileBlobs.open(
            state_directory / "blobs", threads=limits.blob_threads, waiting=limits.waiting_blobs
        )
    except BaseException:
        await asyncio.to_thread(connection.close)
        raise
    return SqliteStore(connection, path, blobs, limits)


def _open(directory: Path, path: Path, busy_timeout_ms: int) -> sqlite3.Connection:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise failures.of_system(error, directory) from error
    return open_writer(path, busy_timeout_ms)


class SqliteStore:
    """See `perstackd.ports.event_store.Store`. An async context manager that closes itself, for one event loop."""

    jobs: JobIndex
    sandboxes: SandboxIndex
    blobs: Blobs
    housekeeping: Housekeeping
    secrets: SecretRows
    sealed_envs: SealedEnvs

    def __init__(self, connection: sqlite3.Connection, path: Path, blobs: FileBlobs, limits: StoreLimits) -> None:
        self._connection = connection
        self._writer = Writer(connection, path, limits.waiting_writes)
        self._readers = Readers(path, limits.reader_threads, limits.waiting_reads, limits.busy_timeout_ms)
        self._blobs = blobs
        self.jobs = SqliteJobs(self._writer, self._readers)
        self.sandboxes = SqliteSandboxes(self._writer, self._readers)
        self.blobs = blobs
        self.housekeeping = SqliteHousekeeping(self._writer, self._readers, blobs)
        self.secrets = SqliteSecrets(self._writer, self._readers)
        self.sealed_envs = SqliteSealedEnvs(self._writer)

    async def create(self, job: JobRecord, events: Sequence[Event], sealed_env: bytes = b"") -> tuple[StoredEvent, ...]:
        """As the port says. Raises also ALREADY_EXISTS `job_exists`; INVALID as `codec.encode`."""
        check_sequence(job, events)
        stored = tuple(codec.stored_event(event) for event in events)
        if job.last_seq != len(stored):
            raise seq_conflict(job, 0, len(stored))
        await self._writer.run(lambda connection: _create(connection, job, stored, sealed_env))
        return stored

    async def append(self, job: JobRecord, events: Sequence[Event]) -> tuple[StoredEvent, ...]:
        """As the port says; id, tenant, idempotency key and query stay those of `create`. Also with no events.

        Raises also NOT_FOUND `job_not_found`; INVALID as `codec.encode`.
        """
        check_sequence(job, events)
        stored = tuple(codec.stored_event(event) for event in events)
        await self._writer.run(lambda connection: _append(connection, job, stored))
        return stored

    async def read(self, job_id: JobId, after_seq: int, limit: int) -> tuple[StoredEvent, ...]:
        return await self._readers.run(lambda connection: rows.read_events(connection, job_id, after_seq, limit))

    async def close(self) -> None:
        await self._writer.close()
        await self._blobs.close()
        await self._readers.close()
        await asyncio.to_thread(self._connection.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class SqliteJobs:
    """See `perstackd.ports.event_store.JobIndex`."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def get(self, job_id: JobId) -> JobRecord | None:
        return await self._one(queries.SELECT_JOB, (job_id,))

    async def by_key(self, tenant: TenantId, idempotency_key: str) -> JobRecord | None:
        return await self._one(queries.SELECT_JOB_BY_KEY, (tenant, idempotency_key))

    async def page(
        self, tenant: TenantId | None, states: Sequence[JobState], before: JobId | None, limit: int
    ) -> tuple[JobRecord, ...]:
        statement, values = queries.select_page(tenant, states, before, limit)
        return await self._readers.run(
            lambda connection: tuple(rows.job_of(row) for row in connection.execute(statement, values).fetchall())
        )

    async def sealed_env(self, job_id: JobId) -> bytes:
        found = await self._readers.run(
            lambda connection: connection.execute(queries.SELECT_SEALED, (job_id,)).fetchone()
        )
        return b"" if found is None else bytes(found[0])

    async def _one(self, statement: str, values: tuple[str, ...]) -> JobRecord | None:
        def select(connection: sqlite3.Connection) -> JobRecord | None:
            row = connection.execute(statement, values).fetchone()
            return None if row is None else rows.job_of(row)

        return await self._readers.run(select)


class SqliteSandboxes:
    """See `perstackd.ports.event_store.SandboxIndex`."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def put(self, record: SandboxRecord) -> None:
        row = (record.id, record.created_at, codec.encode_sandbox(record))
        await self._writer.run(lambda connection: connection.execute(queries.UPSERT_SANDBOX, row).rowcount)

    async def delete(self, sandbox_id: SandboxId) -> None:
        await self._writer.run(lambda connection: connection.execute(queries.DELETE_SANDBOX, (sandbox_id,)).rowcount)

    async def all(self) -> tuple[SandboxRecord, ...]:
        return await self._readers.run(
            lambda connection: tuple(
                codec.decode_sandbox(record) for (record,) in connection.execute(queries.SELECT_SANDBOXES).fetchall()
            )
        )


def _create(connection: sqlite3.Connection, job: JobRecord, stored: Sequence[StoredEvent], sealed_env: bytes) -> None:
    taken = connection.execute(queries.SELECT_ID_BY_KEY, (job.tenant, job.idempotency_key)).fetchone()
    if taken is not None:
        raise key_used(job, JobId(taken[0]))
    if connection.execute(queries.SELECT_TENANT, (job.id,)).fetchone() is not None:
        raise job_exists(job)
    columns = (job.id, job.tenant, job.idempotency_key, job.state, *rows.job_columns(job))
    (job_no,) = connection.execute(queries.INSERT_JOB, columns).fetchone()
    connection.execute(queries.INSERT_QUERY, (job_no, codec.repaired(job.query)))
    if sealed_env:
        connection.execute(queries.INSERT_SEALED, (job_no, sealed_env))
    rows.write_events(connection, job_no, stored)


def _append(connection: sqlite3.Connection, job: JobRecord, stored: Sequence[StoredEvent]) -> None:
    found = connection.execute(queries.SELECT_PLACE, (job.id, job.tenant)).fetchone()
    if found is None:
        raise job_not_found(job)
    job_no, last_seq = found
    if last_seq + len(stored) != job.last_seq:
        raise seq_conflict(job, last_seq, len(stored))
    rows.write_events(connection, job_no, stored)
    connection.execute(queries.UPDATE_JOB, (*rows.job_columns(job), job_no))
    connection.execute(queries.UPDATE_STATE, (job.state, job_no))
    if job.state.final:
        connection.execute(queries.DELETE_SEALED, (job_no,))
