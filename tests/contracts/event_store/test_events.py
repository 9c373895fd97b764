"""What every store promises of events, held by the one in memory and the one on disk."""

import asyncio
from dataclasses import replace

import pytest

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import JobAdmitted, JobQueued, Origin, SkillStderr, StartGeneration
from perstackd.domain.ids import EventId, JobId, RunId, TenantId
from perstackd.domain.job import JobRecord, JobState
from perstackd.ports.event_store import Store
from tests.contracts.event_store.stored import CLOCK, created, events, job, refusal, seqs

pytestmark = pytest.mark.anyio


async def test_what_was_written_is_read_with_the_same_bytes(store: Store) -> None:
    record = job(last_seq=2)
    origin = Origin(RunId(CLOCK.new_id()), RunId(CLOCK.new_id()), "@org/expert", 7)
    begun = events(record, 1, JobQueued(3, "pool"), SkillStderr("github", "\u00fc\n\u0000 text"), origin=origin)
    stored = await store.create(record, begun)
    assert [item.event for item in stored] == begun
    assert await store.read(record.id, 0, 10) == stored
    assert stored[0].document == b'{"place":3,"reason":"pool","type":"jobQueued"}'


async def test_appends_follow_and_keep_their_origin(store: Store) -> None:
    record = await created(store, JobAdmitted())
    for seq, run in ((2, "A"), (3, "B"), (4, "A")):
        origin = Origin(RunId(CLOCK.new_id()) if run == "A" else RunId(""), RunId(""), run, seq)
        record = replace(record, last_seq=seq)
        appended = await store.append(record, events(record, seq, StartGeneration(), origin=origin))
        assert appended == await store.read(record.id, seq - 1, 1)
    assert [item.event.origin.expert_key for item in await store.read(record.id, 1, 10)] == ["A", "B", "A"]


async def test_ids_of_any_form_are_kept(store: Store) -> None:
    record = job(id=JobId("job-1"), last_seq=2)
    one, two = events(record, 1, JobAdmitted(), JobAdmitted())
    stored = await store.create(record, [replace(one, id=EventId("evt")), two])
    assert await store.read(record.id, 0, 5) == stored


async def test_pages_of_events_have_no_gap_and_no_repeat(store: Store) -> None:
    record = await created(store, *(SkillStderr("s", str(number)) for number in range(25)))
    read: list[int] = []
    while page := await store.read(record.id, read[-1] if read else 0, 10):
        read.extend(seqs(page))
    assert read == list(range(1, 26))


@pytest.mark.parametrize(
    ("after", "limit", "expected"), [(-5, 2, [1, 2]), (2, 9, [3]), (3, 9, []), (0, 0, []), (0, -1, [])]
)
async def test_odd_ranges_are_read_as_far_as_they_reach(
    store: Store, after: int, limit: int, expected: list[int]
) -> None:
    record = await created(store, JobAdmitted(), JobAdmitted(), JobAdmitted())
    await created(store, JobAdmitted())
    assert seqs(await store.read(record.id, after, limit)) == expected


async def test_after_the_highest_number_there_is_nothing_also_of_the_next_job(store: Store) -> None:
    record = await created(store, JobAdmitted())
    await created(store, JobAdmitted())
    assert await store.read(record.id, 1 << 70, 10) == ()


async def test_an_unknown_job_has_no_events(store: Store) -> None:
    assert await store.read(JobId(CLOCK.new_id()), 0, 10) == ()


async def test_jobs_do_not_see_each_others_events(store: Store) -> None:
    one = await created(store, JobQueued(1, "one"))
    two = await created(store, JobQueued(2, "two"), JobAdmitted())
    assert [item.event.job_id for item in await store.read(one.id, 0, 10)] == [one.id]
    assert [item.event.job_id for item in await store.read(two.id, 0, 10)] == [two.id] * 2


@pytest.mark.parametrize(("first", "last_seq"), [(2, 2), (4, 4), (1, 1)])
async def test_events_that_do_not_follow_the_last_one_are_refused_and_nothing_is_kept(
    store: Store, first: int, last_seq: int
) -> None:
    record = await created(store, JobAdmitted(), JobAdmitted())
    error = await refusal(
        store.append(replace(record, last_seq=last_seq, state=JobState.FAILED), events(record, first, JobAdmitted()))
    )
    assert (error.kind, error.reason, error.fields["stored_seq"]) == (Kind.CONFLICT, "seq_conflict", "2")
    assert await store.jobs.get(record.id) == record
    assert seqs(await store.read(record.id, 0, 10)) == [1, 2]


async def test_a_gap_within_the_events_is_refused(store: Store) -> None:
    record = replace(await created(store, JobAdmitted()), last_seq=3)
    three, two = events(record, 2, JobAdmitted(), JobAdmitted())[::-1]
    error = await refusal(store.append(record, [three, two]))
    assert error.reason == "seq_conflict"
    assert seqs(await store.read(record.id, 0, 10)) == [1]


async def test_a_job_begins_at_one(store: Store) -> None:
    record = job(last_seq=2)
    assert (await refusal(store.create(record, events(record, 2, JobAdmitted())))).reason == "seq_conflict"
    assert await store.jobs.get(record.id) is None


async def test_events_of_another_job_or_tenant_are_refused(store: Store) -> None:
    record = replace(await created(store, JobAdmitted()), last_seq=2)
    foreign = events(replace(record, tenant=TenantId("other")), 2, JobAdmitted())
    assert (await refusal(store.append(record, foreign))).reason == "event_misplaced"


async def test_a_job_of_another_tenant_cannot_be_appended_to(store: Store) -> None:
    record = replace(await created(store, JobAdmitted()), last_seq=2, tenant=TenantId("other"))
    error = await refusal(store.append(record, events(record, 2, JobAdmitted())))
    assert (error.kind, error.reason) == (Kind.NOT_FOUND, "job_not_found")


async def test_more_events_than_a_job_may_have_are_refused(store: Store) -> None:
    record = job(last_seq=1 << 32)
    assert (await refusal(store.append(record, events(record, 1 << 32, JobAdmitted())))).reason == "job_full"


async def test_a_record_can_be_written_without_an_event(store: Store) -> None:
    record = replace(await created(store, JobAdmitted()), steps=4)
    assert await store.append(record, []) == ()
    assert await store.jobs.get(record.id) == record


async def test_appends_begun_at_once_are_written_in_the_order_of_their_calls(store: Store) -> None:
    record = await created(store)
    async with asyncio.TaskGroup() as tasks:
        for seq in range(1, 201):
            now = replace(record, last_seq=seq)
            tasks.create_task(store.append(now, events(now, seq, StartGeneration())))
    assert seqs(await store.read(record.id, 0, 1000)) == list(range(1, 201))


async def test_one_refused_append_takes_none_of_its_neighbours_with_it(store: Store) -> None:
    records = [await created(store, JobAdmitted()) for _ in range(20)]

    async def append(number: int, record: JobRecord) -> str:
        now = replace(record, last_seq=2 if number % 2 else 9)
        try:
            await store.append(now, events(now, now.last_seq, StartGeneration()))
        except PerstackError as error:
            return error.reason
        return "kept"

    outcomes = await asyncio.gather(*(append(number, record) for number, record in enumerate(records)))
    assert outcomes == ["seq_conflict", "kept"] * 10
    assert [len(await store.read(record.id, 0, 9)) for record in records] == [1, 2] * 10


async def test_what_cannot_be_written_as_json_is_refused_before_anything_is_kept(store: Store) -> None:
    record = job(last_seq=1)
    error = await refusal(store.create(record, events(record, 1, JobQueued(float("nan"), "x"))))  # type: ignore[arg-type]
    assert (error.kind, error.reason) == (Kind.INVALID, "payload_invalid")
    assert await store.jobs.get(record.id) is None


async def test_text_that_utf8_does_not_have_is_repaired_in_what_is_returned_and_what_is_read(store: Store) -> None:
    record = job(last_seq=1)
    stored = await store.create(record, events(record, 1, SkillStderr("s", "a\udc80b")))
    assert stored[0].event.payload == SkillStderr("s", "a\ufffdb")
    assert await store.read(record.id, 0, 1) == stored
