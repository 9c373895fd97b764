"""A store that cannot be written: new jobs are refused, running ones wait, nothing that was acknowledged is lost."""

from pathlib import Path

import anyio
import pytest

from perstackd.app.store_trouble import StoreTrouble
from perstackd.app.warm_pool import PoolLimits
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.job import JobState
from perstackd.domain.messages import ToolResultPart
from perstackd.domain.session import RoutedCall, ToolResults
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.acting_runner import ActingRunnerLink, answered
from tests.fakes.models import Held
from tests.fakes.store import FakeStore
from tests.unit.app.daemon_in_memory import Machine, world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says
from tests.unit.app.warm_pool_world import eventually

pytestmark = pytest.mark.anyio
FULL = PerstackError(Kind.UNAVAILABLE, "store_unavailable", "the disk is full; make room", retryable=True)


async def test_a_running_job_waits_for_the_store_says_why_and_goes_on_while_new_ones_are_refused(
    tmp_path: Path,
) -> None:
    held = Held(calls(("a", "exec", {})))
    async with world(tmp_path, {LEAD: [held, says("done")]}) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        assert daemon.jobs.queue(record.id) is None
        daemon.store.fail_writes = True
        held.release.set()
        await eventually(lambda: daemon.jobs.trouble.why)
        assert daemon.jobs.queue(record.id) == (0, daemon.jobs.trouble.why)
        assert "the disk is full" in daemon.jobs.trouble.why
        with pytest.raises(PerstackError) as refused:
            await daemon.start()
        assert refused.value.reason == "store_unavailable"
        daemon.store.fail_writes = False
        events = await daemon.events(record.id)
        ended = await daemon.jobs.get(record.id)
        assert daemon.jobs.trouble.why == ""
    assert (ended.state, ended.answer) == (JobState.COMPLETED, "done")
    assert [event.seq for event in events] == list(range(1, ended.last_seq + 1))
    assert str(events).count("exec done") == 1


async def test_a_sandbox_is_not_told_to_forget_results_that_wait_for_the_store(tmp_path: Path) -> None:
    async with world(tmp_path, {LEAD: [calls(("a", "exec", {})), says("done")]}) as daemon:

        def full(call: RoutedCall) -> ToolResultPart:
            daemon.store.fail_writes = True
            return answered(call)

        daemon.links.tool = full
        record = await daemon.start()
        await eventually(lambda: daemon.jobs.trouble.why)
        (link,) = [each for each in daemon.links.made.values() if isinstance(each, ActingRunnerLink) and each.assigned]
        assert any(isinstance(ask, ToolResults) for ask in link.runner.kept)
        daemon.store.fail_writes = False
        await daemon.events(record.id)
        assert (await daemon.jobs.get(record.id)).state is JobState.COMPLETED


async def test_children_and_their_sandboxes_wait_as_well(tmp_path: Path) -> None:
    held = Held(calls(("d", "helper", {"query": "x"})))
    async with world(tmp_path, {LEAD: [held, says("done")], HELPER: [says("helped")]}) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        append = FakeStore.append
        left = 1

        async def full_after_one(*arguments: object) -> object:
            nonlocal left
            left -= 1
            if left == -1:
                daemon.store.fail_writes = True
            return await append(daemon.store, *arguments)  # type: ignore[arg-type]

        daemon.store.append = full_after_one  # type: ignore[method-assign,assignment]
        held.release.set()
        await eventually(lambda: daemon.jobs.trouble.why)
        daemon.store.fail_writes = False
        await daemon.events(record.id)
        assert (await daemon.jobs.get(record.id)).state is JobState.COMPLETED


async def test_a_job_that_is_cancelled_while_it_waits_for_the_store_is_cancelled(tmp_path: Path) -> None:
    held = Held(says("done"))
    async with world(tmp_path, {LEAD: [held]}) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        daemon.store.fail_writes = True
        held.release.set()
        await eventually(lambda: daemon.jobs.trouble.why)
        await daemon.jobs.cancel(record.id, "enough")
        daemon.store.fail_writes = False
        await daemon.events(record.id)
        assert (await daemon.jobs.get(record.id)).state is JobState.CANCELLED


async def test_a_daemon_that_is_stopped_meanwhile_leaves_its_jobs_to_the_next_one(tmp_path: Path) -> None:
    machine, held = Machine(tmp_path), Held(says("never"))
    store = machine.store
    async with world(tmp_path, {LEAD: [held]}, machine=machine) as first:
        record = await first.start(workspace=WorkspaceSpec(WorkspaceKind.NAMED, "kept"))
        with anyio.fail_after(5):
            await held.reached.wait()
        store.fail_writes = True
        held.release.set()
        await eventually(lambda: first.jobs.trouble.why)
    assert store.records[record.id].state is JobState.RUNNING
    store.fail_writes = False
    soon = PoolLimits(return_seconds=0.1)
    async with world(tmp_path, {LEAD: [says("done")]}, machine=machine, bounds=soon) as second:
        await second.events(record.id)
        ended = await second.jobs.get(record.id)
    assert (ended.state, ended.answer) == (JobState.COMPLETED, "done")


async def test_patience_has_an_end_and_is_counted_once_for_all() -> None:
    trouble, tries = StoreTrouble(0.25), 0

    async def full() -> None:
        nonlocal tries
        tries += 1
        raise FULL

    with anyio.fail_after(5):
        with pytest.raises(PerstackError, match="make room"):
            await trouble.persist(full)
        waited = tries
        with pytest.raises(PerstackError, match="make room"):
            await trouble.persist(full)  # at once: the trouble is as old as it may be
    assert waited > 1
    assert tries == waited + 1
    assert trouble.why


async def test_other_errors_are_not_waited_out_and_are_no_trouble() -> None:
    trouble = StoreTrouble()

    async def conflict() -> None:
        raise PerstackError(Kind.CONFLICT, "seq_conflict", "another owner")

    with pytest.raises(PerstackError, match="another owner"):
        await trouble.persist(conflict)
    assert trouble.why == ""


async def test_whoever_watches_is_told_of_the_beginning_and_the_end() -> None:
    trouble, room = StoreTrouble(), anyio.Event()
    told: list[str] = []

    async def write() -> None:
        if not room.is_set():
            raise FULL

    async def watch() -> None:
        while len(told) < 2:
            await trouble.changed()
            told.append(trouble.why)
            room.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await anyio.wait_all_tasks_blocked()
            await trouble.persist(write)
    assert told == ["the disk is full; make room", ""]
