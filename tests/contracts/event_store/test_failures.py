"""What every store promises when its disk is full, and after its end."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from perstackd.domain.errors import Kind
from perstackd.domain.events import JobAdmitted, StartGeneration
from perstackd.domain.job import JobState
from perstackd.ports.event_store import Store
from tests.contracts.event_store.stored import Subject, created, events, job, refusal, sandbox, seqs

pytestmark = pytest.mark.anyio


async def test_on_a_full_disk_writes_fail_reads_go_on_and_nothing_is_half_kept(subject: Subject) -> None:
    store = subject.store
    record = await created(store, JobAdmitted())
    fresh = job(idempotency_key="fresh", last_seq=1)
    more = replace(record, last_seq=2, state=JobState.RUNNING)
    writes: list[Callable[[], Awaitable[object]]] = [
        lambda: store.create(fresh, events(fresh, 1, JobAdmitted()), b"sealed"),
        lambda: store.append(more, events(more, 2, StartGeneration())),
        lambda: store.sandboxes.put(sandbox(1)),
        lambda: store.blobs.put(b"new"),
    ]
    with subject.disk_full():
        for write in writes:
            error = await refusal(write())
            assert (error.kind, error.reason, error.retryable) == (Kind.UNAVAILABLE, "store_unavailable", True)
        assert await store.jobs.get(record.id) == record
        assert len(await store.read(record.id, 0, 9)) == 1
    assert await store.jobs.get(fresh.id) is None
    assert await store.sandboxes.all() == ()
    for write in writes:
        await write()
    assert seqs(await store.read(record.id, 0, 9)) == [1, 2]


async def test_a_closed_store_says_so_and_can_be_closed_again(store: Store) -> None:
    record = await created(store, JobAdmitted())
    await store.close()
    await store.close()
    calls: tuple[Awaitable[object], ...] = (
        store.append(replace(record, last_seq=2), events(record, 2, JobAdmitted())),
        store.read(record.id, 0, 1),
        store.jobs.get(record.id),
        store.sandboxes.all(),
        store.blobs.put(b"x"),
    )
    for call in calls:
        error = await refusal(call)
        assert (error.kind, error.reason) == (Kind.UNAVAILABLE, "store_closed")
