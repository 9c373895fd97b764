"""A store in memory. `fail_writes` makes every write fail as a full disk does; nothing of it is kept then.

What it holds may be looked at: `log`, `records`, `envs`, `rows` (of sandboxes), `contents` (of blobs).
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from perstackd.adapters.store import codec
from perstackd.adapters.store.blobs import check_range, digest_of, not_found, parts_of
from perstackd.adapters.store.sequence import (
    check_sequence,
    job_exists,
    job_not_found,
    key_used,
    not_ended,
    seq_conflict,
)
from perstackd.domain.blob_references import blobs_of
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import Event, StoredEvent
from perstackd.domain.ids import JobId, SandboxId, TenantId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.sandbox import SandboxRecord
from perstackd.ports.event_store import Blobs, Housekeeping, JobIndex, SandboxIndex
from perstackd.ports.secret_store import SealedEnvs, SecretRows
from tests.fakes.secret_rows import FakeSealedEnvs, FakeSecretRows


class FakeStore:
    """Implements `perstackd.ports.event_store.Store`."""

    jobs: JobIndex
    sandboxes: SandboxIndex
    blobs: Blobs
    housekeeping: Housekeeping
    secrets: SecretRows
    sealed_envs: SealedEnvs

    def __init__(self) -> None:
        self.fail_writes = False
        self.closed = False
        self.appends = 0
        self.log: dict[JobId, list[StoredEvent]] = {}
        self.records: dict[JobId, JobRecord] = {}
        self.envs: dict[JobId, bytes] = {}
        self.rows: dict[SandboxId, SandboxRecord] = {}
        self.contents: dict[str, bytes] = {}
        self.put_at: dict[str, float] = {}
        self.jobs = FakeJobs(self)
        self.sandboxes = FakeSandboxes(self)
        self.blobs = FakeBlobs(self)
        self.housekeeping = FakeHousekeeping(self)
        self.secrets = FakeSecretRows(self)
        self.sealed_envs = FakeSealedEnvs(self)

    async def create(self, job: JobRecord, events: Sequence[Event], sealed_env: bytes = b"") -> tuple[StoredEvent, ...]:
        check_sequence(job, events)
        stored = tuple(codec.stored_event(event) for event in events)
        if job.last_seq != len(stored):
            raise seq_conflict(job, 0, len(stored))
        self.check_writable()
        taken = await self.jobs.by_key(job.tenant, job.idempotency_key)
        if taken is not None:
            raise key_used(job, taken.id)
        if job.id in self.records:
            raise job_exists(job)
        self.records[job.id] = job
        self.log[job.id] = list(stored)
        self.envs[job.id] = sealed_env
        return stored

    async def append(self, job: JobRecord, events: Sequence[Event]) -> tuple[StoredEvent, ...]:
        check_sequence(job, events)
        stored = tuple(codec.stored_event(event) for event in events)
        self.check_writable()
        known = self.records.get(job.id)
        if known is None or known.tenant != job.tenant:
            raise job_not_found(job)
        if known.last_seq + len(stored) != job.last_seq:
            raise seq_conflict(job, known.last_seq, len(stored))
        self.appends += 1
        self.records[job.id] = replace(job, query=known.query, idempotency_key=known.idempotency_key)
        self.log[job.id].extend(stored)
        if job.state.final:
            self.envs.pop(job.id, None)
        return stored

    async def read(self, job_id: JobId, after_seq: int, limit: int) -> tuple[StoredEvent, ...]:
        self.check_open()
        first = max(after_seq, 0)
        return tuple(self.log.get(job_id, ())[first : first + max(limit, 0)])

    async def close(self) -> None:
        self.closed = True

    def check_open(self) -> None:
        if self.closed:
            raise PerstackError(Kind.UNAVAILABLE, "store_closed", "the store is closed; open another")

    def check_writable(self) -> None:
        self.check_open()
        if self.fail_writes:
            message = "the store cannot be used: the disk is full; free space"
            raise PerstackError(Kind.UNAVAILABLE, "store_unavailable", message, retryable=True)


class FakeJobs:
    def __init__(self, store: FakeStore) -> None:
        self._store = store

    async def get(self, job_id: JobId) -> JobRecord | None:
        self._store.check_open()
        return self._store.records.get(job_id)

    async def by_key(self, tenant: TenantId, idempotency_key: str) -> JobRecord | None:
        self._store.check_open()
        records = self._store.records.values() if idempotency_key else ()
        found = (job for job in records if (job.tenant, job.idempotency_key) == (tenant, idempotency_key))
        return next(found, None)

    async def page(
        self, tenant: TenantId | None, states: Sequence[JobState], before: JobId | None, limit: int
    ) -> tuple[JobRecord, ...]:
        self._store.check_open()
        chosen = [
            job
            for job in sorted(self._store.records.values(), key=lambda job: job.id, reverse=True)
            if (tenant is None or job.tenant == tenant)
            and (not states or job.state in states)
            and (before is None or job.id < before)
        ]
        return tuple(chosen[: max(limit, 0)])

    async def sealed_env(self, job_id: JobId) -> bytes:
        self._store.check_open()
        return self._store.envs.get(job_id, b"")


class FakeSandboxes:
    def __init__(self, store: FakeStore) -> None:
        self._store = store

    async def put(self, record: SandboxRecord) -> None:
        self._store.check_writable()
        self._store.rows[record.id] = record

    async def delete(self, sandbox_id: SandboxId) -> None:
        self._store.check_writable()
        self._store.rows.pop(sandbox_id, None)

    async def all(self) -> tuple[SandboxRecord, ...]:
        self._store.check_open()
        return tuple(sorted(self._store.rows.values(), key=lambda row: (row.created_at, row.id)))


class FakeBlobs:
    def __init__(self, store: FakeStore) -> None:
        self._store = store

    async def put(self, data: bytes) -> str:
        self._store.check_writable()
        digest = digest_of(data)
        self._store.contents[digest] = data
        self._store.put_at[digest] = time.time()
        return digest

    async def get(self, digest: str, offset: int = 0, length: int | None = None) -> bytes:
        parts_of(digest)
        check_range(offset, length)
        self._store.check_open()
        if digest not in self._store.contents:
            raise not_found(digest)
        return self._store.contents[digest][offset : None if length is None else offset + length]


class FakeHousekeeping:
    def __init__(self, store: FakeStore) -> None:
        self._store = store

    async def delete(self, job_id: JobId, put_before_ms: int) -> bool:
        self._store.check_writable()
        record = self._store.records.get(job_id)
        if record is None:
            return False
        if not record.state.final:
            raise not_ended(job_id, record.state)
        used = await self.blobs_of(job_id)
        del self._store.records[job_id], self._store.log[job_id]
        self._store.envs.pop(job_id, None)
        self._remove(used, put_before_ms)
        return True

    async def blobs_of(self, job_id: JobId) -> tuple[str, ...]:
        self._store.check_open()
        found = {digest for each in self._store.log.get(job_id, ()) for digest in blobs_of(each.event.payload)}
        return tuple(sorted(found))

    async def sweep(self, put_before_ms: int) -> int:
        self._store.check_writable()
        return self._remove(tuple(self._store.contents), put_before_ms)

    async def compact(self) -> int:
        self._store.check_writable()
        return 0

    def _remove(self, digests: Iterable[str], put_before_ms: int) -> int:
        log = self._store.log.values()
        needed = {digest for events in log for each in events for digest in blobs_of(each.event.payload)}
        old = [d for d in digests if d not in needed and self._store.put_at.get(d, 0.0) < put_before_ms / 1000]
        return sum(len(self._store.contents.pop(digest, b"")) for digest in old)
