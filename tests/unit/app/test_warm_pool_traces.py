"""The rounds take away what sandboxes left beside containers, once nobody knows of it, and leave the rest alone."""

from dataclasses import replace

import pytest

from perstackd.app.warm_pool import PoolLimits
from perstackd.app.warm_pool.removal import pause
from perstackd.app.warm_pool.rounds import SOON_SECONDS
from perstackd.domain.ids import SandboxId
from perstackd.domain.traces import Leftover, container_of
from tests.fakes.traces import FakeTraces
from tests.unit.app.warm_pool_world import BASE, World, eventually, world

pytestmark = pytest.mark.anyio
GONE = SandboxId("01ARZ3NDEKTSV4RRFFQ69G5FAV")
OLD = "a" * 64
PERIOD = PoolLimits().reconcile_seconds
FIRST_PAUSE = pause(1)


def traced(here: World) -> FakeTraces:
    here.host = traces = FakeTraces(str(here.runtime))
    return traces


async def later(here: World, seconds: float) -> None:
    """Once somebody waits for so long, the time has passed."""
    await eventually(lambda: here.timers.waits_for(seconds))
    here.timers.advance(seconds)


def cgroup(container_id: str) -> str:
    return f"/sys/fs/cgroup/pids/docker/{container_id}"


async def test_what_a_container_left_goes_when_it_is_seen_again_soon_after() -> None:
    with world() as here:
        traces = traced(here)
        async with here.running(replace(BASE, min_idle=1)):
            traces.note(OLD, GONE)
            traces.there = replace(traces.there, cgroups=(cgroup(OLD),))
            await later(here, PERIOD)
            await eventually(lambda: here.timers.waits_for(SOON_SECONDS))
            assert traces.removed == [], "its engine may still be clearing up"
            await later(here, SOON_SECONDS)
            await eventually(lambda: traces.removed == [Leftover(GONE, OLD, cgroups=(cgroup(OLD),))])
            assert traces.there.cgroups == ()
            for _ in range(3):  # the first may see it while the last of it is being taken away
                await later(here, PERIOD)
            await eventually(lambda: OLD not in traces.there.noted)


async def test_the_traces_of_sandboxes_that_live_are_never_touched() -> None:
    with world() as here:
        traces = traced(here)
        async with here.running(replace(BASE, min_idle=1)) as pool:
            lease = await pool.claim(here.request())
            await eventually(lambda: pool.status()[0].idle == 1)
            for container in here.sandboxes.containers.values():
                traces.note(container.id, container.record.id)
            living = tuple(cgroup(each.id) for each in here.sandboxes.containers.values())
            traces.there = replace(traces.there, cgroups=living, mounts=(f"{lease.slot}/workspace",))
            for _ in range(4):
                await later(here, PERIOD)
                await eventually(lambda: here.timers.waits_for(PERIOD))
            assert traces.removed == []
            assert {container_of(path.rpartition("/")[2]) for path in living} <= set(traces.there.noted)


async def test_mounts_in_an_unknown_sandboxs_directory_go_with_it_at_once() -> None:
    with world() as here:
        traces = traced(here)
        own, other = f"{here.runtime}/s/{GONE}/slot/extra", f"{here.runtime}/s/not-ours/slot/extra"
        async with here.running(replace(BASE, min_idle=1)):
            traces.there = replace(traces.there, mounts=(own, other))
            await later(here, PERIOD)
            await eventually(lambda: traces.removed == [Leftover(GONE, mounts=(own,))])
            assert traces.there.mounts == (other,)


async def test_what_resists_is_tried_again_and_stops_nothing_else() -> None:
    with world() as here:
        traces = traced(here)
        async with here.running(replace(BASE, min_idle=1)) as pool:
            traces.note(OLD, GONE)
            traces.there = replace(traces.there, cgroups=(cgroup(OLD),))
            traces.stuck.add(OLD)
            await later(here, PERIOD)
            await eventually(lambda: here.timers.waits_for(SOON_SECONDS))
            await later(here, SOON_SECONDS)
            await eventually(lambda: here.timers.waits_for(FIRST_PAUSE))
            await pool.claim(here.request())
            traces.stuck.clear()
            await later(here, FIRST_PAUSE)
            await eventually(lambda: traces.there.cgroups == ())


async def test_a_host_that_cannot_be_looked_at_stops_no_reconcile() -> None:
    with world() as here:
        traces = traced(here)
        traces.broken = True
        async with here.running(replace(BASE, min_idle=1)):
            here.sandboxes.containers[GONE] = next(iter(here.sandboxes.containers.values()))
            await later(here, PERIOD)
            await eventually(lambda: GONE not in here.sandboxes.containers)
