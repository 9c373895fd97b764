"""What every store promises, held by the one in memory and the one on disk."""

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from perstackd.adapters.store.sqlite import open_store
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import (
    Event,
    JobAdmitted,
    JobCreated,
    JobQueued,
    Origin,
    Payload,
    ResolveToolResults,
    SkillStderr,
    StartGeneration,
)
from perstackd.domain.ids import DEFAULT_TENANT, EventId, JobId, RunId, SandboxId, TenantId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.messages import BlobPart, ToolResultPart, Usage
from perstackd.domain.sandbox import SandboxRecord, SandboxState
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from perstackd.ports.event_store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.store import FakeStore

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Subject:
    """A store, and how to make its writes fail."""

    store: Store
    disk_full: Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=["memory", "sqlite"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "memory":
        fake = FakeStore()

        @contextmanager
        def failing() -> Iterator[None]:
            fake.fail_writes = True
            yield
            fake.fail_writes = False

        yield Subject(fake, failing)
    else:
        async with await open_store(tmp_path / "state") as store:
            yield Subject(store, no_file_may_grow)


@pytest.fixture
def store(subject: Subject) -> Store:
    return subject.store


@contextmanager
def no_file_may_grow() -> Iterator[None]:
    """The kernel refuses this process every write to a file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


CLOCK = FakeClock()


def job(**changes: Any) -> JobRecord:
    record = JobRecord(
        id=JobId(CLOCK.new_id()),
        tenant=DEFAULT_TENANT,
        state=JobState.QUEUED,
        expert_key="fitness-assistant",
        query="Start today's session",
        created_at=CLOCK.now_ms(),
        workspace=WorkspaceSpec(WorkspaceKind.NAMED, "gym"),
        provider="anthropic",
        model="a-model",
        definition_digest="sha256:" + "0" * 64,
    )
    return replace(record, **changes)


def events(record: JobRecord, first: int, *payloads: Payload, origin: Origin | None = None) -> list[Event]:
    return [
        Event(EventId(CLOCK.new_id()), seq, record.tenant, record.id, origin or Origin(), CLOCK.now_ms() + seq, payload)
        for seq, payload in enumerate(payloads, start=first)
    ]


async def created(store: Store, *payloads: Payload, **changes: Any) -> JobRecord:
    record = job(last_seq=len(payloads), **changes)
    await store.create(record, events(record, 1, *payloads))
    return record


async def refusal(coroutine: Any) -> PerstackError:
    with pytest.raises(PerstackError) as caught:
        await coroutine
    return caught.value


def seqs(stored: Sequence[Any]) -> list[int]:
    return [item.event.seq for item in stored]


# --- events ---------------------------------------------------------------------------------------------------------
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


# --- jobs -----------------------------------------------------------------------------------------------------------
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


# --- sandboxes ------------------------------------------------------------------------------------------------------
def sandbox(created_at: int) -> SandboxRecord:
    return SandboxRecord(SandboxId(CLOCK.new_id()), "base", SandboxState.STARTING, 200_000, created_at)


async def test_sandbox_rows_are_replaced_listed_oldest_first_and_deleted(store: Store) -> None:
    young, old = sandbox(20), sandbox(10)
    for row in (young, old):
        await store.sandboxes.put(row)
    claimed = replace(
        young, state=SandboxState.CLAIMED, job_id=JobId("j"), fence=3, session_token_hash="h", uid=200_001
    )
    await store.sandboxes.put(claimed)
    assert await store.sandboxes.all() == (old, claimed)
    await store.sandboxes.delete(old.id)
    await store.sandboxes.delete(old.id)
    assert await store.sandboxes.all() == (claimed,)


# --- blobs ----------------------------------------------------------------------------------------------------------
async def test_blobs_are_found_by_the_digest_of_their_bytes(store: Store) -> None:
    digest = await store.blobs.put(b"hello")
    assert digest == "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert await store.blobs.put(b"hello") == digest
    assert await store.blobs.get(digest) == b"hello"
    assert await store.blobs.get(await store.blobs.put(b"")) == b""


@pytest.mark.parametrize(
    ("offset", "length", "expected"), [(1, 3, b"ell"), (4, None, b"o"), (0, 0, b""), (5, 9, b""), (99, None, b"")]
)
async def test_ranges_of_blobs(store: Store, offset: int, length: int | None, expected: bytes) -> None:
    assert await store.blobs.get(await store.blobs.put(b"hello"), offset, length) == expected


async def test_an_unknown_blob_is_not_found(store: Store) -> None:
    error = await refusal(store.blobs.get("sha256:" + "0" * 64))
    assert (error.kind, error.reason) == (Kind.NOT_FOUND, "blob_not_found")


@pytest.mark.parametrize(
    "digest",
    ["", "sha256:", "sha256:../../etc/passwd", "md5:" + "0" * 64, "sha256:" + "A" * 64, "sha256:" + "0" * 64 + "\n"],
)
async def test_what_is_no_digest_is_invalid(store: Store, digest: str) -> None:
    error = await refusal(store.blobs.get(digest))
    assert (error.kind, error.reason) == (Kind.INVALID, "digest_invalid")


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, -1)])
async def test_negative_ranges_are_invalid(store: Store, offset: int, length: int | None) -> None:
    digest = await store.blobs.put(b"hello")
    assert (await refusal(store.blobs.get(digest, offset, length))).reason == "range_invalid"


async def test_the_same_blob_put_many_times_at_once_is_one(store: Store) -> None:
    assert len(set(await asyncio.gather(*(store.blobs.put(b"x" * 100_000) for _ in range(20))))) == 1


# --- housekeeping ---------------------------------------------------------------------------------------------------
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


# --- failure and end ------------------------------------------------------------------------------------------------
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
