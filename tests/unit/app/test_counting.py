"""Looks at the counters of claimed sandboxes, and the cause of an end where no engine tells it."""

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from perstackd.domain.counters import Counters
from perstackd.domain.events import SandboxReleased
from perstackd.domain.session import LinkLost
from perstackd.ports.sandboxes import EndCause
from tests.fakes.counters import FakeCounters
from tests.fakes.models import Held
from tests.unit.app import daemon_in_memory, warm_pool_world
from tests.unit.app.test_jobs import LEAD, says
from tests.unit.app.warm_pool_world import World, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def pool_world() -> Iterator[World]:
    with warm_pool_world.world() as world:
        world.counters = FakeCounters()
        yield world


async def test_claimed_sandboxes_are_looked_at_each_second_and_idle_ones_are_not(pool_world: World) -> None:
    world, counters = pool_world, pool_world.counters
    assert counters is not None
    async with world.running() as pool:
        await eventually(lambda: world.timers.waits_for(1))
        world.timers.advance(1)
        await eventually(lambda: world.timers.waits_for(1))
        assert counters.looks == 0
        lease = await pool.claim(world.request())
        container = world.sandboxes.containers[lease.record.id].id
        counters.of[container] = Counters()
        world.timers.advance(1)
        await eventually(lambda: counters.looks == 1 and world.timers.waits_for(1))
        world.timers.advance(1)
        await eventually(lambda: counters.looks == 2 and world.timers.waits_for(1))
        counters.of[container] = Counters(oom_kills=1, refused_processes=2, ended=True)
        assert await pool.counting.recent(lease.record) == Counters(1, 0, 2, ended=True)
        del counters.of[container]  # the engine takes the cgroup away
        world.timers.advance(1)
        assert await pool.counting.recent(lease.record) == Counters(1, 0, 2, ended=True)


async def test_counters_that_cannot_be_read_keep_nobody_from_anything(pool_world: World) -> None:
    world, counters = pool_world, pool_world.counters
    assert counters is not None
    counters.failure = OSError("no such hierarchy")
    async with world.running() as pool:
        lease = await pool.claim(world.request())
        await eventually(lambda: world.timers.waits_for(1))
        world.timers.advance(1)
        await eventually(lambda: counters.looks > 0 and world.timers.waits_for(1))
        assert await pool.counting.recent(lease.record) == Counters()


@pytest.mark.parametrize("engine", ["away", "gone", "silent about it"])
async def test_a_sandbox_that_ran_out_of_memory_has_its_cause_without_the_engines_word(
    tmp_path: Path, engine: str
) -> None:
    counters, held = FakeCounters(), Held(says("done"))
    async with daemon_in_memory.world(tmp_path, {LEAD: [held]}, counters=counters) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        await eventually(lambda: daemon.pool.status()[0].idle > 0)  # for the run to go on in, without the engine
        (row,) = [each for each in daemon.pool.records() if each.job_id]
        counters.of[row.container_id] = Counters()
        await daemon.pool.counting.recent(row)  # as the pool does each second
        counters.of[row.container_id] = Counters(oom_kills=1, ended=True)
        match engine:
            case "away":
                daemon.sandboxes.available = False
            case "gone":
                daemon.sandboxes.kill(row.id, EndCause.GONE)
            case _:
                daemon.sandboxes.kill(row.id)
        daemon.links.made[row.id].push(LinkLost("reset"))
        held.release.set()
        events = await daemon.events(record.id)
        daemon.sandboxes.available = True
    released = [event.payload for event in events if isinstance(event.payload, SandboxReleased)]
    assert released[0].cause == "oomKilled"
    assert "1 programs ended for want of memory" in released[0].detail


async def test_without_proof_the_cause_stays_unknown(tmp_path: Path) -> None:
    counters, held = FakeCounters(), Held(says("done"))
    async with daemon_in_memory.world(tmp_path, {LEAD: [held]}, counters=counters) as daemon:
        record = await daemon.start()
        with anyio.fail_after(5):
            await held.reached.wait()
        await eventually(lambda: daemon.pool.status()[0].idle > 0)  # for the run to go on in, without the engine
        (row,) = [each for each in daemon.pool.records() if each.job_id]
        counters.of[row.container_id] = Counters(oom_kills=1)
        await daemon.pool.counting.recent(row)
        counters.of[row.container_id] = Counters(oom_kills=1, ended=True)
        daemon.sandboxes.available = False
        daemon.links.made[row.id].push(LinkLost("reset"))
        held.release.set()
        events = await daemon.events(record.id)
        daemon.sandboxes.available = True
    released = [event.payload for event in events if isinstance(event.payload, SandboxReleased)]
    assert released[0].cause == "unknown"
