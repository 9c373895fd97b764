"""Jobs that are deleted, by hand or by age, and what goes with them."""

from dataclasses import replace
from typing import Any

import anyio
import pytest

from perstackd.app import retention as retention_module
from perstackd.app.retention import DAY_MS, MARGIN_MS, Retention, Swept
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import Event, JobAdmitted, JobCreated, Origin, Payload
from perstackd.domain.ids import DEFAULT_TENANT, EventId, JobId, TenantId, earliest_id, is_id
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.workspace import WorkspaceSpec
from tests.fakes.clock import FakeClock
from tests.fakes.store import FakeStore

pytestmark = pytest.mark.anyio
NOW = 1_800_000_000_000


class World:
    """A store, its clock, and the jobs that go on."""

    def __init__(self, keep_days: int = 0) -> None:
        self.store, self.clock = FakeStore(), FakeClock(NOW)
        self.live: list[int] = []
        self.retention = Retention(
            self.store,
            self.clock,
            keep_days=keep_days,
            oldest_live=lambda: min(self.live, default=None),
            writing=anyio.Lock(),
        )

    async def job(self, days: float = 0, took_days: float = 0, content: bytes = b"definition", **changes: Any) -> JobId:
        """A job that was created so many days ago."""
        digest = await self.store.blobs.put(content)
        at = NOW - round(days * DAY_MS)
        id_ = JobId(FakeClock(at + len(self.store.records)).new_id())
        record = JobRecord(id_, DEFAULT_TENANT, JobState.COMPLETED, "e", "q", at, WorkspaceSpec(), "p", "m", digest)
        record = replace(record, finished_at=at + round(took_days * DAY_MS), last_seq=2, **changes)
        payloads: tuple[Payload, ...] = (JobCreated("e", "q", digest, "ephemeral", "p", "m"), JobAdmitted())
        events = [
            Event(EventId(self.clock.new_id()), seq, record.tenant, id_, Origin(), at, payload)
            for seq, payload in enumerate(payloads, start=1)
        ]
        await self.store.create(record, events)
        return id_

    def put_long_ago(self) -> None:
        """All blobs of the store."""
        self.store.put_at = dict.fromkeys(self.store.contents, 1.0)


async def refusal(coroutine: Any) -> PerstackError:
    with pytest.raises(PerstackError) as caught:
        await coroutine
    return caught.value


async def test_jobs_are_deleted_with_what_only_they_needed() -> None:
    world = World()
    one, two = await world.job(), await world.job(content=b"other")
    kept = await world.job()
    world.put_long_ago()
    assert await world.retention.delete([one, two, one]) == (one, two)
    assert set(world.store.records) == {kept}
    assert list(world.store.contents.values()) == [b"definition"]


async def test_a_job_that_goes_on_stops_the_deletion() -> None:
    world = World()
    ended, running, after = await world.job(), await world.job(state=JobState.RUNNING), await world.job()
    error = await refusal(world.retention.delete([ended, running, after]))
    assert (error.kind, error.reason) == (Kind.PRECONDITION, "job_not_ended")
    assert set(world.store.records) == {running, after}


@pytest.mark.parametrize("unknown", ["x", "0" * 26, ""])
async def test_an_unknown_job_is_not_found(unknown: str) -> None:
    world = World()
    error = await refusal(world.retention.delete([JobId(unknown)]))
    assert (error.kind, error.reason) == (Kind.NOT_FOUND, "job_not_found")


async def test_no_more_than_a_thousand_at_once() -> None:
    error = await refusal(World().retention.delete([JobId("x")] * 1001))
    assert (error.kind, error.reason) == (Kind.INVALID, "too_many_ids")


async def test_old_jobs_go_by_when_they_ended() -> None:
    world = World(keep_days=30)
    old, long_ago = await world.job(days=31), await world.job(days=500)
    young, late = await world.job(days=29), await world.job(days=40, took_days=20)
    waiting = await world.job(days=90, state=JobState.WAITING)
    swept = await world.retention.sweep()
    assert swept.jobs == 2
    assert not {old, long_ago} & set(world.store.records)
    assert set(world.store.records) == {young, late, waiting}


async def test_without_a_limit_nothing_is_too_old() -> None:
    world = World()
    await world.job(days=5000)
    assert (await world.retention.sweep()).jobs == 0
    assert len(world.store.records) == 1


async def test_many_old_jobs_go_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_module, "_PAGE", 3)
    world = World(keep_days=1)
    for number in range(10):
        await world.job(days=2 + number, took_days=0 if number % 3 else 5)
    assert (await world.retention.sweep()).jobs == 8


async def test_blobs_that_nobody_needs_are_swept_unless_a_live_job_may_have_put_them() -> None:
    world = World()
    await world.store.blobs.put(b"left over")
    world.store.put_at = dict.fromkeys(world.store.contents, (NOW - MARGIN_MS) / 1000)
    assert await world.retention.sweep() == Swept(0, 0, 0)
    world.store.put_at = dict.fromkeys(world.store.contents, (NOW - MARGIN_MS - 1) / 1000)
    world.live = [NOW - 10 * MARGIN_MS]
    assert (await world.retention.sweep()).blob_bytes == 0
    world.live = [NOW]
    assert (await world.retention.sweep()).blob_bytes == len(b"left over")


async def test_a_tenant_is_erased_but_for_what_goes_on_and_others_stay() -> None:
    world = World()
    for _ in range(3):
        await world.job()
    running = await world.job(state=JobState.RUNNING)
    other = await world.job(tenant=TenantId("other"))
    assert await world.retention.erase(DEFAULT_TENANT) == (3, 1)
    assert set(world.store.records) == {running, other}


async def test_the_daily_sweep_outlives_a_failure_and_ends_with_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention_module, "FIRST_SWEEP_S", 0)
    monkeypatch.setattr(retention_module, "DAY_S", 0.01)
    world = World(keep_days=1)
    old = await world.job(days=9)
    world.store.fail_writes = True
    async with world.retention:
        await anyio.sleep(0.05)
        world.store.fail_writes = False
        with anyio.fail_after(5):
            while old in world.store.records:
                await anyio.sleep(0.01)
    assert world.store.records == {}


def test_ids_of_an_earlier_time_are_below_the_earliest_one() -> None:
    assert is_id(earliest_id(NOW))
    assert FakeClock(NOW - 1).new_id() < earliest_id(NOW) < FakeClock(NOW).new_id()
