"""A job's first write and the opening of its workspace, which go on at the same time: each may fail, be slow, or be
left by whoever asked.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import Event
from perstackd.domain.ids import DEFAULT_TENANT, JobId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.models import Held
from tests.unit.app.daemon_in_memory import Machine, World, world
from tests.unit.app.gates import Gate
from tests.unit.app.test_job_failures import KEYED
from tests.unit.app.test_jobs import LEAD, says

pytestmark = pytest.mark.anyio

NAMED = WorkspaceSpec(WorkspaceKind.NAMED, "kept")
FULL = PerstackError(Kind.UNAVAILABLE, "store_unavailable", "the disk is full; make room", retryable=True)
NOT_THERE = PerstackError(Kind.NOT_FOUND, "workspace_not_found", "it does not exist; make it first")


def clean(daemon: World) -> bool:
    """Whether nothing of any job is left: no task, hold, watcher's channel, workspace, claim or row."""
    jobs = daemon.jobs
    claimed = [row for row in daemon.pool.records() if row.job_id]
    held = jobs.holds.holders(DEFAULT_TENANT, NAMED.value)
    left = (jobs._workers, jobs._births, jobs._feed._channels, daemon.workspaces.jobs, daemon.workspaces.ephemeral)
    return not any(left) and not held and not claimed and jobs.counts() == (0, 0)


async def cleaned(daemon: World) -> None:
    with anyio.fail_after(5):
        while not clean(daemon):
            await anyio.sleep(0.001)


async def asked_for(daemon: World, job_id: JobId) -> tuple[JobRecord, list[Event]]:
    """The job at its end, its log whole."""
    events = await daemon.events(job_id)
    record = await daemon.jobs.get(job_id)
    assert [event.seq for event in events] == list(range(1, record.last_seq + 1))
    assert [event.payload.type for event in events].count("jobFinished") == 1
    return record, events


def only_job(daemon: World) -> JobId:
    (job_id,) = daemon.jobs._workers
    return job_id


async def refusal(start: Callable[[], Awaitable[Any]]) -> str:
    with pytest.raises(PerstackError) as refused:
        await start()
    return refused.value.reason


async def test_the_workspace_is_opened_while_the_job_is_written_and_no_sandbox_is_claimed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon, anyio.create_task_group() as callers:
        birth = Gate(monkeypatch, daemon.store, "create")
        callers.start_soon(daemon.start)
        await birth.wait()
        await anyio.wait_all_tasks_blocked()
        job_id = only_job(daemon)
        assert list(daemon.workspaces.jobs) == [job_id]
        assert not any(row.job_id for row in daemon.pool.records())
        birth.open()
        with anyio.fail_after(5):
            while job_id not in daemon.store.log:
                await anyio.sleep(0.001)
        ended, _ = await asked_for(daemon, job_id)
        assert ended.state is JobState.COMPLETED


@pytest.mark.parametrize("error", [FULL, ZeroDivisionError("s3cret-text")], ids=["disk full", "unforeseen"])
@pytest.mark.parametrize("opened", [True, False], ids=["after the opening", "while it opens"])
@pytest.mark.parametrize("spec", [WorkspaceSpec(), NAMED], ids=["ephemeral", "named"])
async def test_a_birth_that_the_store_refuses_leaves_nothing_and_is_told_once_the_workspace_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, error: Exception, opened: bool, spec: WorkspaceSpec
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon, anyio.create_task_group() as callers:
        reasons: list[str] = []
        opening = Gate(monkeypatch, daemon.workspaces, "open")
        with monkeypatch.context() as patch:
            append = Gate(patch, daemon.store, "append")
            append.open()
            birth = Gate(patch, daemon.store, "create", error)

            async def start() -> None:
                reasons.append(await refusal(lambda: daemon.start(workspace=spec, env={"TOKEN": "t"}, toml=KEYED)))
                assert not daemon.jobs.holds.holders(DEFAULT_TENANT, spec.value)
                assert daemon.jobs.counts() == (0, 0)

            callers.start_soon(start)
            await birth.wait()
            await opening.wait()
            if opened:
                opening.open()
                await anyio.wait_all_tasks_blocked()
                assert len(daemon.workspaces.jobs) == 1
            birth.open()
            await cleaned(daemon)
            assert not append.reached.is_set()
        assert reasons == ["internal" if isinstance(error, ZeroDivisionError) else "store_unavailable"]
        assert (daemon.store.records, daemon.store.log, daemon.store.envs) == ({}, {}, {})
        opening.open()
        ended, _ = await daemon.finished(workspace=spec)
        assert ended.state is JobState.COMPLETED


async def test_a_birth_and_a_workspace_that_are_both_refused_are_told_as_the_stores_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon, anyio.create_task_group() as callers:
        daemon.workspaces.open_error = NOT_THERE
        birth = Gate(monkeypatch, daemon.store, "create", FULL)
        reasons: list[str] = []

        async def start() -> None:
            reasons.append(await refusal(daemon.start))

        callers.start_soon(start)
        await birth.wait()
        await anyio.wait_all_tasks_blocked()
        birth.open()
        await cleaned(daemon)
        assert (reasons, daemon.store.log) == (["store_unavailable"], {})


async def test_a_request_that_is_repeated_while_the_first_is_written_gets_the_first_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first one's own hold on the workspace stands in the way."""
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        birth = Gate(monkeypatch, daemon.store, "create")
        found: list[JobId] = []

        async def start() -> None:
            found.append((await daemon.start(workspace=NAMED, idempotency_key="k")).id)

        async with anyio.create_task_group() as callers:
            callers.start_soon(start)
            await birth.wait()
            callers.start_soon(start)
            await anyio.wait_all_tasks_blocked()
            birth.open()
        assert len(found) == 2
        assert len({*found}) == 1
        assert list(daemon.store.records) == found[:1]
        await asked_for(daemon, found[0])


async def test_a_repeat_after_the_first_was_refused_makes_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        daemon.store.contents.clear()
        with monkeypatch.context() as patch:
            Gate(patch, daemon.store, "create", FULL).open()
            assert await refusal(lambda: daemon.start(workspace=NAMED, idempotency_key="k")) == "store_unavailable"
        ended, _ = await daemon.finished(workspace=NAMED, idempotency_key="k")
        assert ended.state is JobState.COMPLETED


async def test_a_repeat_of_an_ended_jobs_request_begins_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        ended, events = await daemon.finished(workspace=NAMED, idempotency_key="k")
        claims = sum(status.claimed_total for status in daemon.pool.status())
        again = await daemon.start(workspace=NAMED, idempotency_key="k")
        await cleaned(daemon)
        assert again == ended
        assert sum(status.claimed_total for status in daemon.pool.status()) == claims
        assert len(daemon.store.log[ended.id]) == len(events)
        other = await refusal(lambda: daemon.start(workspace=NAMED, idempotency_key="k", query="something else"))
        await cleaned(daemon)
    assert other == "idempotency_key_used"
    assert len(daemon.store.log) == 1


@pytest.mark.parametrize("first", ["workspace", "birth"])
async def test_a_workspace_that_is_refused_ends_its_job_with_the_reason_whichever_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        birth, opening = Gate(monkeypatch, daemon.store, "create"), Gate(monkeypatch, daemon.workspaces, "open")
        opening.error = NOT_THERE
        made: list[JobRecord] = []

        async def start() -> None:
            made.append(await daemon.start(KEYED, env={"TOKEN": "t"}, workspace=NAMED))

        async with anyio.create_task_group() as callers:
            callers.start_soon(start)
            await birth.wait()
            (opening if first == "workspace" else birth).open()
            await anyio.wait_all_tasks_blocked()
            assert bool(made) is (first == "birth")
            (birth if first == "workspace" else opening).open()
        ended, events = await asked_for(daemon, made[0].id)
        assert (ended.state, ended.error_reason) == (JobState.FAILED, "workspace_not_found")
        assert [event.payload.type for event in events] == ["jobCreated", "jobFinished"]
        assert not any(daemon.store.envs.values())
        await cleaned(daemon)


@pytest.mark.parametrize("held", ["birth", "opening"])
async def test_a_cancel_at_any_point_of_the_birth_ends_a_job_that_is_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        birth, opening = Gate(monkeypatch, daemon.store, "create"), Gate(monkeypatch, daemon.workspaces, "open")
        (opening if held == "birth" else birth).open()
        async with anyio.create_task_group() as callers:
            callers.start_soon(lambda: daemon.start(workspace=NAMED))
            await (birth if held == "birth" else opening).wait()
            await anyio.wait_all_tasks_blocked()
            job_id = only_job(daemon)
            await daemon.jobs.cancel(job_id, "enough")
            await anyio.wait_all_tasks_blocked()
            birth.open()
        ended, events = await asked_for(daemon, job_id)
        assert (ended.state, ended.error_message) == (JobState.CANCELLED, "enough")
        assert [event.payload.type for event in events] == ["jobCreated", "jobFinished"]
        await cleaned(daemon)


async def test_a_cancel_of_a_birth_that_is_refused_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon, anyio.create_task_group() as callers:
        birth = Gate(monkeypatch, daemon.store, "create", FULL)
        callers.start_soon(refusal, daemon.start)
        await birth.wait()
        await daemon.jobs.cancel(only_job(daemon), "enough")
        birth.open()
        await cleaned(daemon)
        assert daemon.store.log == {}


@pytest.mark.parametrize("held", ["birth", "opening"])
async def test_a_daemon_that_stops_at_any_point_of_the_birth_leaves_the_job_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    machine = Machine(tmp_path)
    made: list[JobRecord] = []
    with monkeypatch.context() as patch:
        async with world(tmp_path, {LEAD: [says("never")]}, machine=machine) as first:
            birth, opening = Gate(patch, first.store, "create"), Gate(patch, first.workspaces, "open")
            (opening if held == "birth" else birth).open()

            async def start() -> None:
                made.append(await first.start())

            async with anyio.create_task_group() as callers:
                callers.start_soon(start)
                await (birth if held == "birth" else opening).wait()
                await first.jobs.stop(0)
                birth.open()
            assert await refusal(first.start) == "draining"
            await first.jobs.stop(5)
    assert [stored.event.payload.type for stored in machine.store.log[made[0].id]] == ["jobCreated"]
    async with world(tmp_path, {LEAD: [says("done")]}, machine=machine) as second:
        ended, _ = await asked_for(second, made[0].id)
    assert (ended.state, ended.answer) == (JobState.COMPLETED, "done")


async def test_a_daemon_that_stops_while_a_birth_is_refused_closes_its_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, {LEAD: [says("never")]}) as daemon, anyio.create_task_group() as callers:
        birth = Gate(monkeypatch, daemon.store, "create", FULL)
        callers.start_soon(refusal, daemon.start)
        await birth.wait()
        await anyio.wait_all_tasks_blocked()
        assert daemon.workspaces.ephemeral
        await daemon.jobs.stop(0)
        birth.open()
        await cleaned(daemon)


@pytest.mark.parametrize("held", ["birth", "opening"])
async def test_a_drain_waits_for_a_job_that_is_being_born(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon, anyio.create_task_group() as tasks:
        gate = Gate(monkeypatch, *((daemon.store, "create") if held == "birth" else (daemon.workspaces, "open")))
        tasks.start_soon(daemon.start)
        await gate.wait()
        job_id = only_job(daemon)
        await daemon.jobs.drain(0)
        assert daemon.jobs.counts() != (0, 0)
        gate.open()
        with anyio.fail_after(5):
            await daemon.jobs.drain(5)
        assert daemon.store.records[job_id].state is JobState.COMPLETED


@pytest.mark.parametrize("held", ["birth", "opening"])
async def test_a_caller_that_hangs_up_at_any_point_of_the_birth_leaves_a_job_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        gate = Gate(monkeypatch, *((daemon.store, "create") if held == "birth" else (daemon.workspaces, "open")))
        async with anyio.create_task_group() as callers:
            callers.start_soon(lambda: daemon.start(workspace=NAMED, idempotency_key="k"))
            await gate.wait()
            callers.cancel_scope.cancel()
        gate.open()
        again = await daemon.start(workspace=NAMED, idempotency_key="k")
        ended, _ = await asked_for(daemon, again.id)
        assert (ended.state, len(daemon.store.records)) == (JobState.COMPLETED, 1)
        await cleaned(daemon)


async def test_a_caller_that_hangs_up_before_its_birth_is_refused_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        birth = Gate(monkeypatch, daemon.store, "create", FULL)
        async with anyio.create_task_group() as callers:
            callers.start_soon(lambda: daemon.start(workspace=NAMED))
            await birth.wait()
            callers.cancel_scope.cancel()
        birth.open()
        await cleaned(daemon)
        assert daemon.store.log == {}


async def test_a_watcher_from_the_first_moment_sees_every_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(says("done"))
    async with world(tmp_path, {LEAD: [held]}) as daemon:
        opening = Gate(monkeypatch, daemon.workspaces, "open")
        record = await daemon.start()
        seen: list[Event] = []

        async def watch() -> None:
            seen.extend(await daemon.events(record.id))

        async with anyio.create_task_group() as watchers:
            watchers.start_soon(watch)
            await anyio.wait_all_tasks_blocked()
            opening.open()
            with anyio.fail_after(5):
                await held.reached.wait()
            held.release.set()
        assert [event.seq for event in seen] == list(range(1, (await daemon.jobs.get(record.id)).last_seq + 1))
