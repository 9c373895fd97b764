"""The wall clock jumps while jobs run: order, ids, times, budgets and time-outs stay what they were."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from perstackd.domain.budget import Budgets
from perstackd.domain.events import Event
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.messages import ToolResultPart
from perstackd.domain.session import RoutedCall
from tests.fakes.acting_runner import answered
from tests.fakes.models import Held
from tests.unit.app.daemon_in_memory import Machine, world
from tests.unit.app.test_jobs import LEAD, calls, says

pytestmark = pytest.mark.anyio
HOUR_MS = 3_600_000
TURNS = {LEAD: [calls(("a", "exec", {})), calls(("b", "exec", {})), says("done")]}


def sane(record: JobRecord, events: Sequence[Event]) -> None:
    assert (record.state, record.answer) == (JobState.COMPLETED, "done")
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert all(earlier.id < later.id for earlier, later in pairwise(events))
    assert all(earlier.timestamp <= later.timestamp for earlier, later in pairwise(events))
    assert events[0].timestamp == record.created_at
    assert record.created_at <= record.finished_at == events[-1].timestamp
    assert 0 <= record.worked_ms < 60_000


@pytest.mark.parametrize("jump", [-HOUR_MS, HOUR_MS, -24 * HOUR_MS * 365 * 60], ids=["back", "forward", "to the epoch"])
async def test_a_job_over_which_the_clock_jumps_ends_as_any_other(tmp_path: Path, jump: int) -> None:
    machine = Machine(tmp_path)

    def tool(call: RoutedCall) -> ToolResultPart:
        machine.clock.set_wall(max(machine.clock.now_ms() + jump, 1))
        return answered(call)

    async with world(tmp_path, TURNS, machine=machine) as daemon:
        daemon.links.tool = tool
        record, events = await daemon.finished(budgets=Budgets(wall_clock_ms=HOUR_MS // 2))
        assert not [row for row in daemon.pool.records() if row.claimed_at < 0]
    sane(record, events)


@pytest.mark.parametrize("jump", [-HOUR_MS, HOUR_MS])
async def test_a_job_that_is_taken_up_after_the_clock_jumped_goes_on_from_its_last_time(
    tmp_path: Path, jump: int
) -> None:
    machine, held = Machine(tmp_path), Held(says("never said"))
    async with machine.interrupted({LEAD: [calls(("a", "exec", {})), held]}) as daemon:
        daemon.links.tool = answered
        job = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
    machine.clock.set_wall(machine.clock.now_ms() + jump)
    async with world(tmp_path, {LEAD: [calls(("a", "exec", {})), says("done")]}, machine=machine) as daemon:
        events = await daemon.events(job.id)
        record = await daemon.jobs.get(job.id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert all(earlier.timestamp <= later.timestamp for earlier, later in pairwise(events))
    assert (record.state, record.answer) == (JobState.COMPLETED, "done")
    assert record.finished_at == events[-1].timestamp


async def test_a_time_out_is_counted_by_another_clock(tmp_path: Path) -> None:
    """A generation is neither cut when the clock jumps forward, nor waited for longer when it is set back."""
    machine, held = Machine(tmp_path), Held(says("done"))
    async with world(tmp_path, {LEAD: [held]}, machine=machine) as daemon:
        job = await daemon.start(budgets=Budgets(wall_clock_ms=1_000))
        with anyio.fail_after(5):
            await held.reached.wait()
            machine.clock.set_wall(machine.clock.now_ms() - HOUR_MS)
            await daemon.events(job.id)  # the second of the budget passes all the same
        record = await daemon.jobs.get(job.id)
    assert (record.state, record.error_reason) == (JobState.STOPPED, "budget_wallClock")
