"""A job's sealed values: kept as long as somebody may take the job up, gone in the very write that ends it."""

from dataclasses import replace

import pytest

from perstackd.domain.events import JobAdmitted, JobFinished
from perstackd.domain.job import JobRecord, JobState
from perstackd.ports.event_store import Store
from tests.contracts.event_store.stored import Subject, events, job, refusal

pytestmark = pytest.mark.anyio

END = JobFinished("failed", 1, "", "internal", "it broke")


async def sealed(store: Store) -> JobRecord:
    record = job(last_seq=1)
    await store.create(record, events(record, 1, JobAdmitted()), b"\x00sealed")
    return record


def ended(record: JobRecord, last_seq: int = 2) -> JobRecord:
    return replace(record, state=JobState.FAILED, last_seq=last_seq)


@pytest.mark.parametrize("state", [state for state in JobState if state.final])
async def test_every_final_state_takes_them_and_no_other_jobs(store: Store, state: JobState) -> None:
    record, other = await sealed(store), await sealed(store)
    await store.append(replace(ended(record), state=state), events(record, 2, END))
    assert await store.jobs.sealed_env(record.id) == b""
    assert await store.jobs.sealed_env(other.id) == b"\x00sealed"


@pytest.mark.parametrize("state", [state for state in JobState if not state.final])
async def test_no_other_state_does(store: Store, state: JobState) -> None:
    record = await sealed(store)
    await store.append(replace(record, state=state, last_seq=2), events(record, 2, JobAdmitted()))
    assert await store.jobs.sealed_env(record.id) == b"\x00sealed"


async def test_an_end_that_is_refused_leaves_them_for_whoever_takes_the_job_up(subject: Subject) -> None:
    store = subject.store
    record = await sealed(store)
    gap = await refusal(store.append(ended(record, 3), events(record, 3, END)))
    with subject.disk_full():
        full = await refusal(store.append(ended(record), events(record, 2, END)))
        assert await store.jobs.sealed_env(record.id) == b"\x00sealed"
    assert (gap.reason, full.reason) == ("seq_conflict", "store_unavailable")
    assert await store.jobs.sealed_env(record.id) == b"\x00sealed"
    await store.append(ended(record), events(record, 2, END))
    assert await store.jobs.sealed_env(record.id) == b""
