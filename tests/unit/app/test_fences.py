"""What runs in a sandbox that was given up ends before anything goes on without it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from perstackd.domain.events import JobFinished, SandboxAssigned
from perstackd.domain.ids import SandboxId
from perstackd.domain.job import JobState
from perstackd.domain.messages import ToolResultPart
from perstackd.domain.session import RoutedCall
from tests.fakes.acting_runner import answered
from tests.unit.app.daemon_in_memory import Machine, world
from tests.unit.app.test_jobs import LEAD, calls, says

pytestmark = pytest.mark.anyio
TURNS = {LEAD: [calls(("a", "exec", {})), calls(("b", "exec", {})), says("done")]}


@pytest.fixture
def runtime() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fences-", dir="/tmp") as directory:
        yield Path(directory) / "run"


async def test_a_run_goes_on_elsewhere_only_once_nothing_runs_in_its_earlier_sandbox(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    async with world(tmp_path, TURNS, machine=machine) as daemon:
        seen: list[tuple[str, list[str]]] = []

        def tool(call: RoutedCall) -> ToolResultPart | None:
            claimed = max((row for row in daemon.pool.records() if row.job_id), key=lambda row: row.fence)
            seen.append((claimed.container_id, list(machine.halts.halted)))
            if len(seen) == 1:
                daemon.links.made[claimed.id].lose()
                return None
            return answered(call)

        daemon.links.tool = tool
        record, events = await daemon.finished()
    assert record.state is JobState.COMPLETED
    (first, none), (second, halted) = seen[:2]
    assert (none, second != first) == ([], True)
    assert first in halted
    assert [event.payload.fence for event in events if isinstance(event.payload, SandboxAssigned)] == [1, 2]


async def test_a_run_whose_earlier_sandbox_cannot_be_ended_does_not_go_on_beside_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    async with world(tmp_path, TURNS, machine=machine) as daemon:

        def tool(_: RoutedCall) -> ToolResultPart | None:
            (claimed,) = [row for row in daemon.pool.records() if row.job_id and row.state == "claimed"]
            machine.halts.running.add(claimed.container_id)
            machine.halts.unstoppable.add(claimed.container_id)
            daemon.links.made[claimed.id].lose()
            return None

        daemon.links.tool = tool
        record, events = await daemon.finished()
    assert (record.state, record.error_reason) == (JobState.FAILED, "sandbox_unstoppable")
    assert sum(isinstance(event.payload, SandboxAssigned) for event in events) == 1


async def test_a_job_has_ended_only_once_nothing_runs_in_its_sandboxes(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    async with world(tmp_path, TURNS, machine=machine) as daemon:
        containers: dict[str, str] = {}

        def tool(call: RoutedCall) -> ToolResultPart | None:
            containers.update({row.id: row.container_id for row in daemon.pool.records() if row.job_id})
            return answered(call)

        daemon.links.tool = tool
        _, events = await daemon.finished()
        halted = list(machine.halts.halted)
    (assigned,) = [event.payload.sandbox_id for event in events if isinstance(event.payload, SandboxAssigned)]
    assert containers[SandboxId(assigned)] in halted
    assert isinstance(events[-1].payload, JobFinished)


async def test_after_a_kill_a_sandbox_that_does_not_come_back_has_ended_before_its_run_goes_on(runtime: Path) -> None:
    machine, at_work = Machine(runtime), anyio.Event()
    async with machine.interrupted(TURNS) as daemon:
        daemon.links.tool = lambda _: at_work.set()
        job = await daemon.start()
        with anyio.fail_after(5):
            await at_work.wait()
        (claimed,) = [row for row in daemon.pool.records() if row.job_id]
    machine.links.tokens.clear()  # nobody in it can say who it is
    halted: list[list[str]] = []

    def tool(call: RoutedCall) -> ToolResultPart:
        halted.append(list(machine.halts.halted))
        return answered(call)

    machine.links.tool = tool
    async with world(runtime, TURNS, machine=machine) as daemon:
        await daemon.events(job.id)
        record = await daemon.jobs.get(job.id)
    assert record.state is JobState.COMPLETED
    assert all(claimed.container_id in before for before in halted)
    assert halted
