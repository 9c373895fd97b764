"""What every store promises of jobs' records, held by the one in memory and the one on disk."""

import asyncio
from dataclasses import replace

import pytest

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import JobAdmitted
from perstackd.domain.ids import DEFAULT_TENANT, TenantId
from perstackd.domain.job import JobState
from perstackd.domain.messages import Usage
from perstackd.ports.event_store import Store
from tests.contracts.event_store.stored import created, events, job, refusal

pytestmark = pytest.mark.anyio


async def test_every_field_of_a_record_is_kept(store: Store) -> None:
    record = await created(store, idempotency_key="k", request_digest="sha256:1")
    record = replace(
        record,
        state=JobState.COMPLETED,
        finished_at=5,
        steps=6,
        runs=7,
        usage=Usage(1, 2, 3, 4),
        answer="\u00fc",
        error_reason="r",
        error_message="m",
        last_seq=1,
    )
    await store.append(record, events(record, 1, JobAdmitted()))
    assert await store.jobs.get(record.id) == record


async def test_an_idempotency_key_is_used_once_per_tenant(store: Store) -> None:
    first = await created(store, idempotency_key="key")
    again = job(idempotency_key="key")
    error = await refusal(store.create(again, []))
    assert (error.kind, error.reason) == (Kind.ALREADY_EXISTS, "idempotency_key_used")
    assert error.fields["job_id"] == first.id
    assert await store.jobs.get(again.id) is None
    other = await created(store, idempotency_key="key", tenant=TenantId("other"))
    assert await store.jobs.by_key(DEFAULT_TENANT, "key") == first
    assert await store.jobs.by_key(TenantId("other"), "key") == other


async def test_of_two_creates_with_one_key_at_once_one_is_kept(store: Store) -> None:
    records = [job(idempotency_key="same") for _ in range(10)]
    outcomes = await asyncio.gather(*(store.create(record, []) for record in records), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, PerstackError)]
    assert len(refused) == 9
    kept = await store.jobs.by_key(DEFAULT_TENANT, "same")
    assert kept is not None
    assert {error.fields["job_id"] for error in refused} == {kept.id}


async def test_jobs_without_a_key_are_not_found_by_one(store: Store) -> None:
    await created(store)
    await created(store)
    assert await store.jobs.by_key(DEFAULT_TENANT, "") is None


async def test_a_job_id_is_used_once(store: Store) -> None:
    record = await created(store, JobAdmitted())
    error = await refusal(store.create(replace(record, last_seq=0), []))
    assert (error.kind, error.reason) == (Kind.ALREADY_EXISTS, "job_exists")
    assert len(await store.read(record.id, 0, 9)) == 1


async def test_pages_of_jobs_go_from_the_newest_by_tenant_state_and_place(store: Store) -> None:
    other = TenantId("other")
    a = await created(store, state=JobState.RUNNING)
    b = await created(store, state=JobState.QUEUED, tenant=other)
    c = await created(store, state=JobState.QUEUED)
    d = await created(store, state=JobState.FAILED)
    page = store.jobs.page
    assert await page(None, [], None, 10) == (d, c, b, a)
    assert await page(DEFAULT_TENANT, [], None, 10) == (d, c, a)
    assert await page(None, [JobState.QUEUED, JobState.RUNNING], None, 10) == (c, b, a)
    assert await page(DEFAULT_TENANT, [JobState.QUEUED], None, 10) == (c,)
    assert await page(None, [], c.id, 1) == (b,)
    assert await page(TenantId("nobody"), [], None, 10) == ()
    assert await page(None, [], None, -1) == ()


async def test_a_job_moves_between_the_pages_of_its_states(store: Store) -> None:
    record = await created(store)
    await store.append(replace(record, state=JobState.RUNNING), [])
    assert await store.jobs.page(None, [JobState.QUEUED], None, 10) == ()
    assert [found.id for found in await store.jobs.page(None, [JobState.RUNNING], None, 10)] == [record.id]


async def test_sealed_values_go_in_the_write_that_ends_their_job(store: Store) -> None:
    record, other = job(), job()
    for each in (record, other):
        await store.create(each, [], b"\x00sealed")
    await store.append(replace(record, state=JobState.RUNNING), [])
    assert await store.jobs.sealed_env(record.id) == b"\x00sealed"
    for state in (JobState.FAILED, JobState.FAILED):
        await store.append(replace(record, state=state), [])
        assert await store.jobs.sealed_env(record.id) == b""
    assert await store.jobs.sealed_env(other.id) == b"\x00sealed"
