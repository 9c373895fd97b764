"""What every store promises of deleting and sweeping, held by the one in memory and the one on disk."""

from typing import Any

import pytest

from perstackd.domain.errors import Kind
from perstackd.domain.events import JobAdmitted, JobCreated, JobQueued, ResolveToolResults, SkillStderr
from perstackd.domain.ids import DEFAULT_TENANT, JobId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.messages import BlobPart, ToolResultPart
from perstackd.ports.event_store import Store
from tests.contracts.event_store.stored import CLOCK, created, events, job, refusal

pytestmark = pytest.mark.anyio
LATER = 1 << 50
"""Every blob was put before."""


async def with_blobs(store: Store, *contents: bytes, **changes: Any) -> JobRecord:
    """A job whose definition is the first content, and whose tools gave the others."""
    digests = [await store.blobs.put(content) for content in contents]
    results = tuple(
        ToolResultPart(str(place), (BlobPart(digest, 1, "text/plain"),)) for place, digest in enumerate(digests[1:])
    )
    begun = JobCreated("e", "q", digests[0], "ephemeral", "p", "m")
    return await created(store, begun, ResolveToolResults(results), **{"state": JobState.COMPLETED, **changes})


async def test_a_deleted_job_is_gone_with_its_events_and_values_and_no_other_is_touched(store: Store) -> None:
    kept = await created(store, JobAdmitted(), idempotency_key="kept")
    record = job(last_seq=1, state=JobState.COMPLETED, idempotency_key="gone")
    await store.create(record, events(record, 1, JobAdmitted()), b"sealed")
    assert await store.housekeeping.delete(record.id, LATER)
    assert await store.jobs.get(record.id) is None
    assert await store.jobs.by_key(DEFAULT_TENANT, "gone") is None
    assert await store.jobs.sealed_env(record.id) == b""
    assert await store.read(record.id, 0, 9) == ()
    assert await store.jobs.get(kept.id) == kept
    assert len(await store.read(kept.id, 0, 9)) == 1
    fresh = await created(store, JobQueued(1, "fresh"))
    assert [item.event.payload for item in await store.read(fresh.id, 0, 9)] == [JobQueued(1, "fresh")]


async def test_a_job_without_an_end_is_not_deleted(store: Store) -> None:
    record = await created(store, JobAdmitted(), state=JobState.WAITING)
    error = await refusal(store.housekeeping.delete(record.id, LATER))
    assert (error.kind, error.reason) == (Kind.PRECONDITION, "job_not_ended")
    assert len(await store.read(record.id, 0, 9)) == 1


async def test_deleting_what_is_not_there_says_so(store: Store) -> None:
    assert not await store.housekeeping.delete(JobId(CLOCK.new_id()), LATER)


async def test_a_blob_goes_with_the_last_job_that_needs_it(store: Store) -> None:
    one = await with_blobs(store, b"definition", b"shared", b"own")
    two = await with_blobs(store, b"definition", b"shared")
    shared, own = await store.blobs.put(b"shared"), await store.blobs.put(b"own")
    assert set(await store.housekeeping.blobs_of(one.id)) > {shared, own}
    assert await store.housekeeping.delete(one.id, LATER)
    assert await store.blobs.get(shared) == b"shared"
    assert (await refusal(store.blobs.get(own))).reason == "blob_not_found"
    assert await store.housekeeping.delete(two.id, LATER)
    assert (await refusal(store.blobs.get(shared))).reason == "blob_not_found"


async def test_a_blob_that_was_put_lately_stays_and_one_that_is_put_again_is_there_again(store: Store) -> None:
    one = await with_blobs(store, b"definition")
    digest = await store.blobs.put(b"definition")
    await store.housekeeping.delete(one.id, 0)
    assert await store.blobs.get(digest) == b"definition"
    assert await store.housekeeping.sweep(0) == 0
    assert await store.housekeeping.sweep(LATER) == len(b"definition")
    assert (await refusal(store.blobs.get(digest))).reason == "blob_not_found"
    assert await store.blobs.put(b"definition") == digest
    assert await store.blobs.get(digest) == b"definition"


async def test_a_sweep_takes_only_what_nobody_needs(store: Store) -> None:
    await with_blobs(store, b"definition", b"result", state=JobState.RUNNING)
    await store.blobs.put(b"left over")
    assert await store.housekeeping.sweep(LATER) == len(b"left over")
    assert await store.housekeeping.sweep(LATER) == 0
    assert await store.blobs.get(await store.blobs.put(b"result")) == b"result"


async def test_compacting_loses_nothing(store: Store) -> None:
    kept = await created(store, SkillStderr("s", "x" * 10_000))
    for _ in range(20):
        gone = await created(store, *(SkillStderr("s", "x" * 10_000) for _ in range(10)), state=JobState.FAILED)
        await store.housekeeping.delete(gone.id, LATER)
    assert await store.housekeeping.compact() >= 0
    assert await store.housekeeping.compact() == 0
    assert len(await store.read(kept.id, 0, 9)) == 1
