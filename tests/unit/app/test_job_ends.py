"""How a job ends: its sandboxes are given back at the same time, told of together with its end, and never twice."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from perstackd.app import job_worker
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import Event, JobFinished, Payload, SandboxAssigned, SandboxReleased
from perstackd.domain.job import JobState
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.models import Entry, Held
from tests.fakes.store import FakeStore
from tests.unit.app.coming_back import SKILLED
from tests.unit.app.daemon_in_memory import SKILLS, Machine, World, world
from tests.unit.app.gates import Gate
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says
from tests.unit.app.test_taking_up import kill_claimed

pytestmark = pytest.mark.anyio

NAMED = WorkspaceSpec(WorkspaceKind.NAMED, "kept")
FULL = PerstackError(Kind.UNAVAILABLE, "store_unavailable", "the disk is full; make room", retryable=True)
DELEGATES = calls(("d", "helper", {"query": "x"}))


def assigned(events: Sequence[Event]) -> list[str]:
    return sorted(event.payload.sandbox_id for event in events if isinstance(event.payload, SandboxAssigned))


def released(events: Sequence[Event]) -> list[str]:
    return sorted(event.payload.sandbox_id for event in events if isinstance(event.payload, SandboxReleased))


def whole(events: Sequence[Event]) -> bool:
    """Whether the log has no gap, one end, which is its last event, and one end of each sandbox before it."""
    types = [event.payload.type for event in events]
    ends = (types[-1], types.count("jobFinished")) == ("jobFinished", 1)
    numbers = [event.seq for event in events] == list(range(1, len(events) + 1))
    return ends and numbers and assigned(events) == released(events)


def writes(daemon: World, patch: pytest.MonkeyPatch) -> list[list[Payload]]:
    """The events of each append from now on."""
    made: list[list[Payload]] = []
    append = daemon.store.append

    async def noted(job: Any, events: Sequence[Event]) -> Any:
        stored = await append(job, events)
        made.append([event.payload for event in events])
        return stored

    patch.setattr(daemon.store, "append", noted)
    return made


async def test_a_jobs_end_and_its_sandboxes_are_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}, skills=SKILLS) as daemon:
        daemon.links.tools = {"web": ("fetch",)}
        made = writes(daemon, monkeypatch)
        Gate(monkeypatch, daemon.pool.fences, "halt").open()
        record, events = await daemon.finished(SKILLED)
    assert record.state is JobState.COMPLETED
    assert [payload.type for payload in made[-1]] == ["sandboxReleased", "sandboxReleased", "jobFinished"]
    assert whole(events)


async def test_the_sandboxes_of_a_run_end_at_the_same_time_and_while_their_ways_out_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, {LEAD: [says("done")]}, skills=SKILLS) as daemon:
        daemon.links.tools = {"web": ("fetch",)}
        closing = Gate(monkeypatch, daemon.egress, "close")
        under_way: set[str] = set()
        both = anyio.Event()

        async def halt(record: Any) -> None:
            under_way.add(record.id)
            if len(under_way) == 2:
                both.set()
            await both.wait()

        monkeypatch.setattr(daemon.pool.fences, "halt", halt)
        record = await daemon.start(SKILLED)
        with anyio.fail_after(5):
            await both.wait()
        await closing.wait()
        closing.open()
        events = await daemon.events(record.id)
    assert whole(events)
    assert released(events) == sorted(under_way)


@pytest.mark.parametrize("broken", ["halt", "close"])
@pytest.mark.parametrize("error", [KeyError("s3cret-text"), FULL], ids=["unforeseen", "refused"])
async def test_whatever_goes_wrong_with_one_sandbox_all_are_given_back_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, error: Exception
) -> None:
    held = Held(says("done"))
    async with world(tmp_path, {LEAD: [held]}, skills=SKILLS) as daemon:
        daemon.links.tools = {"web": ("fetch",)}
        targets = {"halt": daemon.pool.fences, "close": daemon.egress}
        record = await daemon.start(SKILLED)
        with anyio.fail_after(5):
            await held.reached.wait()
        with monkeypatch.context() as patch:
            Gate(patch, targets[broken], broken, error).open()
            held.release.set()
            events = await daemon.events(record.id)
        ended = await daemon.jobs.get(record.id)
        assert not any(row.job_id and row.state == "claimed" for row in daemon.pool.records())
    assert ended.state is JobState.COMPLETED
    assert whole(events)
    assert "s3cret-text" not in str(events)


async def test_a_sandbox_whose_end_cannot_be_found_out_is_told_of_as_unknown_and_its_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(says("done"))
    async with world(tmp_path, {LEAD: [held]}) as daemon:
        end, asked = daemon.pool.end, 0

        async def broken(lease: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked > 1:  # the first is asked for the run itself, the second for the log
                raise KeyError("s3cret-text")
            return await end(lease)

        monkeypatch.setattr(daemon.pool, "end", broken)
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        kill_claimed(daemon)
        held.release.set()
        events = await daemon.events(record.id)
        assert (await daemon.jobs.get(record.id)).state is JobState.COMPLETED
    assert whole(events)
    assert next(each.payload.cause for each in events if isinstance(each.payload, SandboxReleased)) == "unknown"
    assert "s3cret-text" not in str(events)


async def test_a_childs_sandbox_is_told_of_while_its_parent_goes_on(tmp_path: Path) -> None:
    held = Held(says("done"))
    turns: dict[str, list[Entry]] = {LEAD: [DELEGATES, held], HELPER: [says("x")]}
    async with world(tmp_path, turns) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
            while not released([stored.event for stored in daemon.store.log[record.id]]):
                await anyio.sleep(0.001)
        assert daemon.store.records[record.id].state is JobState.RUNNING
        held.release.set()
        assert whole(await daemon.events(record.id))


async def test_a_childs_sandbox_that_ends_late_is_told_of_with_the_jobs_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [DELEGATES, says("done")], HELPER: [says("x")]}
    async with world(tmp_path, turns) as daemon:
        made = writes(daemon, monkeypatch)
        ending = Gate(monkeypatch, daemon.pool.fences, "halt")
        record = await daemon.start()
        with anyio.fail_after(5):
            while "completeRun" not in [each.type for each in made[-1]] if made else True:
                await anyio.sleep(0.001)
        await anyio.wait_all_tasks_blocked()
        assert daemon.store.records[record.id].state is JobState.RUNNING
        ending.open()
        events = await daemon.events(record.id)
    assert whole(events)
    assert [payload.type for payload in made[-1]] == ["sandboxReleased", "sandboxReleased", "jobFinished"]


async def test_the_end_is_written_once_however_often_the_store_refuses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_worker, "END_DELAYS", (0.001,) * 5)
    append, refused = FakeStore.append, 0

    async def full(self: FakeStore, job: Any, events: Sequence[Event]) -> Any:
        nonlocal refused
        if isinstance(events[-1].payload, JobFinished) and refused < 4:
            refused += 1
            raise FULL
        return await append(self, job, events)

    monkeypatch.setattr(FakeStore, "append", full)
    async with world(tmp_path, {LEAD: [says("done")]}, store_patience_s=0) as daemon:
        record, events = await daemon.finished()
    assert (refused, record.state, record.answer) == (4, JobState.COMPLETED, "done")
    assert whole(events)


async def test_a_daemon_that_stops_tells_of_a_sandbox_that_was_ending_and_the_next_does_not_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, held = Machine(tmp_path), Held(says("never"))
    turns: dict[str, list[Entry]] = {LEAD: [DELEGATES, held], HELPER: [says("x")]}
    with monkeypatch.context() as patch:
        async with world(tmp_path, turns, machine=machine) as first:
            ending = Gate(patch, first.pool.fences, "halt")
            record = await first.start(workspace=NAMED)
            with anyio.fail_after(5):
                await held.reached.wait()
            await ending.wait()
            await first.jobs.stop(0)
            assert not released([stored.event for stored in machine.store.log[record.id]])
            ending.open()
            await first.jobs.stop(5)
    log = [stored.event for stored in machine.store.log[record.id]]
    assert (len(released(log)), log[-1].payload.type) == (1, "sandboxReleased")
    assert machine.store.records[record.id].state is JobState.RUNNING
    turns = {LEAD: [DELEGATES, says("done")], HELPER: [says("x")]}
    async with world(tmp_path, turns, machine=machine) as second:
        events = await second.events(record.id)
        assert (await second.jobs.get(record.id)).state is JobState.COMPLETED
    assert whole(events)


def dies_before_the_end(store: FakeStore, patch: pytest.MonkeyPatch) -> None:
    """The job's last write is never made, as if the process was killed before it."""
    patch.setattr(job_worker, "END_DELAYS", ())
    append = store.append

    async def killed(job: Any, events: Sequence[Event]) -> Any:
        if isinstance(events[-1].payload, JobFinished):
            raise PerstackError(Kind.UNAVAILABLE, "store_closed", "the store is closed; open another")
        return await append(job, events)

    patch.setattr(store, "append", killed)


@pytest.mark.parametrize("workspace", [NAMED, WorkspaceSpec()], ids=["named", "ephemeral"])
async def test_a_job_whose_process_died_between_its_runs_end_and_its_own_keeps_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workspace: WorkspaceSpec
) -> None:
    """Also when its ephemeral workspace is gone: nothing would have been done in it any more."""
    store = FakeStore()
    with monkeypatch.context() as patch:
        dies_before_the_end(store, patch)
        async with world(tmp_path, {LEAD: [says("done")]}, store=store) as first:
            record = await first.start(workspace=workspace)
            with pytest.raises(PerstackError, match="could not be written"):
                await first.events(record.id)
    assert store.log[record.id][-1].event.payload.type == "completeRun"
    async with world(tmp_path, {}, machine=Machine.rebooted(tmp_path, store)) as second:
        events = await second.events(record.id)
        ended = await second.jobs.get(record.id)
    assert (ended.state, ended.answer) == (JobState.COMPLETED, "done")
    assert whole(events)
    (end,) = [event.payload for event in events if isinstance(event.payload, SandboxReleased)]
    assert (end.cause, end.detail) == ("lost", "perstackd was restarted")


async def test_a_job_that_cannot_be_taken_up_tells_of_its_sandboxes_and_holds_no_secret(tmp_path: Path) -> None:
    store, held = FakeStore(), Held(says("never"))
    async with world(tmp_path, {LEAD: [held]}, store=store) as first:
        record = await first.start(env={}, workspace=NAMED)
        with anyio.fail_after(5):
            await held.reached.wait()
    store.envs[record.id] = b"sealed"
    store.contents.clear()
    async with world(tmp_path, {}, machine=Machine.rebooted(tmp_path, store)) as second:
        events = await second.events(record.id)
        ended = await second.jobs.get(record.id)
    assert (ended.state, ended.error_reason) == (JobState.FAILED, "blob_not_found")
    assert whole(events)
    assert not any(store.envs.values())


async def test_ends_of_lost_sandboxes_are_told_also_when_the_workspace_is_refused_before_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, held = FakeStore(), Held(says("never"))
    async with world(tmp_path, {LEAD: [held]}, store=store) as first:
        record = await first.start(workspace=NAMED)
        with anyio.fail_after(5):
            await held.reached.wait()
    store.rows.clear()  # it cannot come back
    machine, append, refused = Machine.rebooted(tmp_path, store), store.append, 0
    machine.workspaces.open_error = PerstackError(Kind.DENIED, "workspace_owner_refused", "it is root's")

    async def full(job: Any, events: Sequence[Event]) -> Any:
        nonlocal refused
        refused += 1
        if refused == 1:
            raise FULL
        return await append(job, events)

    monkeypatch.setattr(store, "append", full)
    async with world(tmp_path, {}, machine=machine) as second:
        events = await second.events(record.id)
        ended = await second.jobs.get(record.id)
    assert (ended.state, ended.error_reason) == (JobState.FAILED, "workspace_owner_refused")
    assert (refused, whole(events)) == (2, True)


async def test_a_secret_is_kept_until_the_end_is_written_and_not_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is still to be ended may be taken up, with its values."""
    toml = '[experts.lead]\ninstruction="Lead."\n[experts.lead.skills."@perstack/base"]\n'
    toml += 'type="mcpStdioSkill"\nrequiredEnv=["TOKEN"]\n'
    async with world(tmp_path, {LEAD: [says("done")]}) as daemon:
        closing = Gate(monkeypatch, daemon.workspaces, "close")
        record = await daemon.start(toml, env={"TOKEN": "t"})
        await closing.wait()
        assert daemon.store.envs[record.id]
        closing.open()
        await daemon.events(record.id)
        assert record.id not in daemon.store.envs


async def test_a_write_that_fails_while_the_daemon_stops_does_not_end_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path)
    async with world(tmp_path, {LEAD: [says("never")]}, machine=machine) as first:
        with monkeypatch.context() as failing:
            write = Gate(failing, machine.store, "append", FULL)
            record = await first.start(workspace=NAMED)
            await write.wait()
            await first.jobs.stop(0)
        write.open()
        await first.jobs.stop(5)
    assert not machine.store.records[record.id].state.final
    async with world(tmp_path, {LEAD: [says("done")]}, machine=machine) as second:
        events = await second.events(record.id)
        ended = await second.jobs.get(record.id)
    assert (ended.state, ended.answer) == (JobState.COMPLETED, "done")
    assert whole(events)
