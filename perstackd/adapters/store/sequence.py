"""What every store refuses: events that do not continue their job, jobs that are there already."""

from collections.abc import Sequence
from typing import Final

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import Event
from perstackd.domain.ids import JobId
from perstackd.domain.job import JobRecord

MAX_SEQ: Final = (1 << 32) - 1


def check_sequence(job: JobRecord, events: Sequence[Event]) -> None:
    """Hold the events to the record: of that job and tenant, numbered without a gap up to `last_seq`.

    Raises:
        PerstackError: CONFLICT `seq_conflict`; INVALID `event_misplaced`; EXHAUSTED `job_full` past 2^32 events.
    """
    if job.last_seq > MAX_SEQ:
        raise PerstackError(Kind.EXHAUSTED, "job_full", f"job {job.id} has {MAX_SEQ} events; begin a new job")
    first = job.last_seq - len(events) + 1
    for seq, event in enumerate(events, start=first):
        if event.seq != seq:
            message = (
                f"event {event.seq} of job {job.id} stands where {seq} was due; number events one by one up to last_seq"
            )
            raise PerstackError(
                Kind.CONFLICT, "seq_conflict", message, fields={"job_id": job.id, "seq": str(event.seq)}
            )
        if event.job_id != job.id or event.tenant != job.tenant:
            message = f"event {event.id} is of job {event.job_id}, not of job {job.id}; append it to its own job"
            raise PerstackError(Kind.INVALID, "event_misplaced", message, fields={"job_id": job.id})


def seq_conflict(job: JobRecord, stored_seq: int, count: int) -> PerstackError:
    """CONFLICT `seq_conflict`."""
    message = (
        f"job {job.id} stands at event {stored_seq}; {count} events up to {job.last_seq} do not follow it; "
        "read the job again and append after its last event"
    )
    fields = {"job_id": job.id, "stored_seq": str(stored_seq), "last_seq": str(job.last_seq)}
    return PerstackError(Kind.CONFLICT, "seq_conflict", message, fields=fields)


def key_used(job: JobRecord, by: JobId) -> PerstackError:
    """ALREADY_EXISTS `idempotency_key_used`, with the job that has it."""
    message = (
        f"the idempotency key {job.idempotency_key[:80]!r} was used for job {by}; watch that job or use another key"
    )
    return PerstackError(Kind.ALREADY_EXISTS, "idempotency_key_used", message, fields={"job_id": by})


def job_exists(job: JobRecord) -> PerstackError:
    """ALREADY_EXISTS `job_exists`."""
    message = f"there is a job {job.id} already; make a new id"
    return PerstackError(Kind.ALREADY_EXISTS, "job_exists", message, fields={"job_id": job.id})


def not_ended(job_id: str, state: str) -> PerstackError:
    """PRECONDITION `job_not_ended`."""
    message = f"job {job_id} is {state}; cancel it and wait for its end first"
    return PerstackError(Kind.PRECONDITION, "job_not_ended", message, fields={"job_id": job_id})


def job_not_found(job: JobRecord) -> PerstackError:
    """NOT_FOUND `job_not_found`."""
    message = f"there is no job {job.id} of tenant {job.tenant}; create it first"
    return PerstackError(Kind.NOT_FOUND, "job_not_found", message, fields={"job_id": job.id})
