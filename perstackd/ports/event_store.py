"""The durable store: events and job records, sandbox rows, blobs, sealed values. What returns is on disk."""

from collections.abc import Sequence
from typing import Protocol

from perstackd.domain.events import Event, StoredEvent
from perstackd.domain.ids import JobId, SandboxId, TenantId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.sandbox import SandboxRecord
from perstackd.ports.secret_store import SealedEnvs, SecretRows


class EventStore(Protocol):
    """The truth of jobs. Appends of one job come from its one owner, in order."""

    async def create(self, job: JobRecord, events: Sequence[Event], sealed_env: bytes = b"") -> tuple[StoredEvent, ...]:
        """Begin a job. `events` start at seq 1; `job.last_seq` is the last one's.

        Raises:
            PerstackError: ALREADY_EXISTS `idempotency_key_used` with field `job_id` when (tenant, idempotency_key) is
            taken;
                UNAVAILABLE `store_unavailable` when it cannot be written (disk full, read-only): nothing was kept.
        """
        ...

    async def append(self, job: JobRecord, events: Sequence[Event]) -> tuple[StoredEvent, ...]:
        """Write events and the job's new record together, durable on return. With a final state, the job's sealed
        values go in the same write.

        Raises:
            PerstackError: CONFLICT `seq_conflict` when the first event's seq is not the stored last + 1: nothing was
            kept;
                UNAVAILABLE `store_unavailable`.
        """
        ...

    async def read(self, job_id: JobId, after_seq: int, limit: int) -> tuple[StoredEvent, ...]:
        """At most `limit` events with seq > after_seq, in order; empty at the end."""
        ...


class JobIndex(Protocol):
    """Look-ups over job records."""

    async def get(self, job_id: JobId) -> JobRecord | None:
        """The job's record."""
        ...

    async def by_key(self, tenant: TenantId, idempotency_key: str) -> JobRecord | None:
        """The job that was created with that key."""
        ...

    async def page(
        self, tenant: TenantId | None, states: Sequence[JobState], before: JobId | None, limit: int
    ) -> tuple[JobRecord, ...]:
        """Records newest first, those with an id below `before`; no states means all."""
        ...

    async def sealed_env(self, job_id: JobId) -> bytes:
        """The sealed values that the job was created with; empty when there are none."""
        ...


class SandboxIndex(Protocol):
    """Rows of sandboxes: written before the engine is asked, deleted after it confirmed the removal."""

    async def put(self, record: SandboxRecord) -> None:
        """Insert or replace, durable on return."""
        ...

    async def delete(self, sandbox_id: SandboxId) -> None:
        """Idempotent."""
        ...

    async def all(self) -> tuple[SandboxRecord, ...]:
        """Every row, oldest first."""
        ...


class Blobs(Protocol):
    """Bytes by their SHA-256. Writing the same bytes twice keeps one copy. They stay for as long as an event of a job
    refers to them (`domain.blob_references`); what none refers to is swept away in time.
    """

    async def put(self, data: bytes) -> str:
        """Keep `data`, durable on return; returns `sha256:HEX`."""
        ...

    async def get(self, digest: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a range.

        Raises:
            PerstackError: NOT_FOUND `blob_not_found`; INVALID `digest_invalid`.
        """
        ...


class Housekeeping(Protocol):
    """What leaves the store. A blob that was put at or after `put_before_ms` (milliseconds since the epoch) stays,
    whoever needs it: the event that will refer to it may not be written yet.
    """

    async def delete(self, job_id: JobId, put_before_ms: int) -> bool:
        """Delete an ended job with its events, its sealed values and the blobs that it alone needed; durable on
        return. False when there is no such job.

        Raises:
            PerstackError: PRECONDITION `job_not_ended`: nothing was deleted; UNAVAILABLE `store_unavailable`.
        """
        ...

    async def blobs_of(self, job_id: JobId) -> tuple[str, ...]:
        """The digests that the job's events refer to, in order."""
        ...

    async def sweep(self, put_before_ms: int) -> int:
        """Delete the blobs that no job needs; returns how many bytes they had."""
        ...

    async def compact(self) -> int:
        """Give the room of what was deleted back to the file system, in steps between which others write; returns how
        many bytes.
        """
        ...


class Store(EventStore, Protocol):
    """What `daemon.py` opens and closes; its parts are handed out one by one."""

    jobs: JobIndex
    sandboxes: SandboxIndex
    blobs: Blobs
    housekeeping: Housekeeping
    secrets: SecretRows
    sealed_envs: SealedEnvs

    async def close(self) -> None:
        """Finish what was begun, then close. Idempotent."""
        ...
