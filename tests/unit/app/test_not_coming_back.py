"""After a daemon was killed, or stopped in the middle of its jobs: sandboxes that their runs do not get back."""

from dataclasses import replace

import anyio
import pytest

from perstackd.domain.events import SandboxAssigned, SandboxReleased
from perstackd.domain.job import JobState
from tests.fakes.acting_runner import answered
from tests.fakes.models import Entry, Held
from tests.unit.app.coming_back import SKILLED, SOON, assigned, claimed, ended, hanging, left_in_a_call
from tests.unit.app.daemon_in_memory import SKILLS, Machine, world
from tests.unit.app.test_jobs import HELPER, LEAD, calls, says
from tests.unit.app.warm_pool_world import eventually

pytestmark = pytest.mark.anyio


async def test_when_one_of_a_runs_sandboxes_does_not_come_back_it_goes_on_in_fresh_ones(
    machine: Machine,
) -> None:
    machine.links.tools = {"web": ("fetch",)}
    held = Held(says("never"))
    async with machine.interrupted({LEAD: [held]}, skills=SKILLS) as first:
        record = await first.start(SKILLED)
        with anyio.fail_after(5):
            await held.reached.wait()
        one, other = (link.sandbox_id for link in claimed(first))
    machine.links.tokens[one] = "another"
    async with world(machine.runtime, {LEAD: [says("done")]}, machine=machine, skills=SKILLS, bounds=SOON) as d:
        events = await ended(d, record.id)
        await eventually(lambda: {one, other} <= set(machine.sandboxes.removed))
    assert assigned(events) == 4
    fences = [event.payload.fence for event in events if isinstance(event.payload, SandboxAssigned)]
    assert fences == [1, 1, 2, 2]
    gone = [event.payload for event in events if isinstance(event.payload, SandboxReleased)][:2]
    assert {each.sandbox_id for each in gone} == {one, other}
    assert all(each.cause == "lost" and "restarted" in each.detail for each in gone)


async def test_one_whose_workspace_is_not_mounted_any_more_is_given_up(machine: Machine) -> None:
    held = Held(says("never"))
    async with machine.interrupted({LEAD: [held]}) as first:
        record = await first.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        (link,) = claimed(first)
    machine.workspaces.mounts.clear()
    async with world(machine.runtime, {LEAD: [says("done")]}, machine=machine) as second:
        events = await ended(second, record.id)
        await eventually(lambda: link.sandbox_id in machine.sandboxes.removed)
    assert assigned(events) == 2


async def test_one_that_a_later_claim_has_replaced_does_not_come_back_and_its_fence_is_not_used_again(
    machine: Machine,
) -> None:
    """The row of a claim was written, the event of it was not."""
    held = Held(says("never"))
    async with machine.interrupted({LEAD: [held]}) as first:
        record = await first.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        (link,) = claimed(first)
    row = machine.store.rows[link.sandbox_id]
    machine.store.rows[link.sandbox_id] = replace(row, fence=7)
    async with world(machine.runtime, {LEAD: [says("done")]}, machine=machine) as second:
        events = await ended(second, record.id)
    fences = [event.payload.fence for event in events if isinstance(event.payload, SandboxAssigned)]
    assert fences == [1, 8]


async def test_the_sandbox_of_a_job_that_has_ended_goes(machine: Machine) -> None:
    held = Held(says("never"))
    async with machine.interrupted({LEAD: [held]}) as first:
        record = await first.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        (link,) = claimed(first)
    known = machine.store.records[record.id]
    machine.store.records[record.id] = known.finished(JobState.CANCELLED, 1, reason="cancelled", message="by hand")
    async with world(machine.runtime, {}, machine=machine) as second:
        await eventually(lambda: link.sandbox_id in machine.sandboxes.removed)
        assert not claimed(second)


async def test_a_sandbox_that_came_back_and_then_ends_is_one_that_was_lost(machine: Machine) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("a", "exec", {})), says("done")]}
    async with machine.interrupted(turns) as first:
        begun = hanging(first, "exec")
        record = await first.start()
        with anyio.fail_after(5):
            await begun.wait()
    machine.links.tool = answered
    async with world(machine.runtime, turns, machine=machine) as second:
        with anyio.fail_after(5):
            await eventually(lambda: bool(claimed(second)) and claimed(second)[0].token_hash != "")
        (again,) = claimed(second)
        machine.sandboxes.kill(again.sandbox_id)
        again.lose()
        events = await ended(second, record.id)
    assert assigned(events) == 2
    assert "may or may not have taken effect" in str(events)


async def test_one_that_is_not_as_its_template_asks_is_taken_from_its_run(machine: Machine) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("a", "exec", {})), says("done")]}
    record, link = await left_in_a_call(machine, turns)
    machine.sandboxes.weak_sandboxes.add(link.sandbox_id)
    machine.links.tool = answered
    async with world(machine.runtime, turns, machine=machine) as second:
        events = await ended(second, record.id)
        assert link.sandbox_id in machine.sandboxes.removed
    assert assigned(events) == 2


async def test_a_job_that_is_cancelled_while_its_sandboxes_come_back_gives_back_those_of_all_its_runs(
    machine: Machine,
) -> None:
    held = Held(says("never"))
    lead: list[Entry] = [calls(("d", "helper", {"query": "x"}))]
    async with machine.interrupted({LEAD: lead, HELPER: [held]}) as first:
        record = await first.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        links = claimed(first)
    machine.links.hold_hellos()
    async with world(machine.runtime, {}, machine=machine) as second:
        await second.jobs.cancel(record.id, "enough")
        machine.links.release_hellos()
        events = await second.events(record.id)
        assert (await second.jobs.get(record.id)).state is JobState.CANCELLED
        await eventually(lambda: {link.sandbox_id for link in links} <= set(machine.sandboxes.removed))
        assert not claimed(second)
    assert len(links) == 2
    released = [(event.origin, event.payload) for event in events if isinstance(event.payload, SandboxReleased)]
    assert {payload.sandbox_id for _, payload in released} == {link.sandbox_id for link in links}
    assert all(origin.expert_key for origin, _ in released)


async def test_jobs_go_on_while_the_engine_is_away(machine: Machine) -> None:
    turns: dict[str, list[Entry]] = {LEAD: [calls(("a", "exec", {})), says("done")]}
    record, link = await left_in_a_call(machine, turns)
    machine.links.tool = answered
    link.complete()
    machine.sandboxes.available = False
    async with world(machine.runtime, turns, machine=machine) as second:
        events = await ended(second, record.id)
        machine.sandboxes.available = True
    assert assigned(events) == 1
