"""What an earlier daemon left, and an engine that is away."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from perstackd.domain.errors import PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import SandboxRecord, SandboxState
from perstackd.ports.sandboxes import SandboxDirectories
from tests.unit.app.failing_world import failing_world, idle, lone
from tests.unit.app.warm_pool_world import BASE, BOUND, World, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def here() -> Iterator[World]:
    with failing_world() as made:
        yield made


def _id(number: int) -> SandboxId:
    return SandboxId(f"01ARZ3NDEKTSV4RRFFQ69G5FA{number}")


async def _leave_over(here: World) -> None:
    """A container, a row and directories of an earlier daemon, one sandbox each, and things that are not ours."""
    record = SandboxRecord(_id(1), "base", SandboxState.CLAIMED, 200_000, 1)
    paths = SandboxDirectories("/gw", "/slot", "/id")
    await here.sandboxes.start(record, BASE, paths)
    await here.store.sandboxes.put(replace(record, id=_id(2), uid=200_001))
    (here.runtime / "s" / _id(3) / "gw").mkdir(parents=True)
    (here.runtime / "s" / _id(3) / "gw" / "runner.sock").write_text("")
    os.symlink("/etc", here.runtime / "s" / _id(3) / "gw" / "link")
    here.workspaces.slots.add(f"{here.runtime}/s/{_id(3)}/slot")
    await here.workspaces.prove(f"{here.runtime}/s/{_id(3)}/slot", 1)
    (here.runtime / "s" / "not-ours").mkdir()
    here.sandboxes.started.clear()


async def test_what_an_earlier_daemon_left_is_removed_before_the_first_start(here: World) -> None:
    await _leave_over(here)
    async with here.pool(lone()) as pool:
        await eventually(lambda: idle(pool) == 1)
        assert here.sandboxes.removed == [_id(1)]
        assert set(here.store.rows) == {pool.records()[0].id}
        assert here.directories() == {pool.records()[0].id, "not-ours"}
        assert here.workspaces.mounts == {}
    (here.runtime / "s" / "not-ours").rmdir()
    assert os.path.exists("/etc/passwd")


async def test_what_appears_later_and_nobody_knows_is_removed_by_the_periodic_reconcile(here: World) -> None:
    async with here.running(lone()) as pool:
        await _leave_over(here)
        here.timers.advance(30)
        known = pool.records()[0].id
        await eventually(lambda: here.directories() == {known, "not-ours"} and set(here.store.rows) == {known})
        assert set(here.sandboxes.containers) == {known}


async def test_the_uid_of_a_left_over_that_resists_is_not_given_away(here: World) -> None:
    record = SandboxRecord(_id(1), "base", SandboxState.CLAIMED, 200_000, 1)
    await here.sandboxes.start(record, BASE, SandboxDirectories("/gw", "/slot", "/id"))
    await here.store.sandboxes.put(record)
    here.sandboxes.stuck_removals.add(record.id)
    async with here.running(lone()) as pool:
        assert pool.records()[0].uid == 200_001
        here.sandboxes.stuck_removals.clear()
        here.timers.advance(6)
        await eventually(lambda: _id(1) not in here.sandboxes.containers)


async def test_an_engine_that_is_away_at_the_start_makes_claims_wait_and_be_told_until_it_answers(here: World) -> None:
    here.sandboxes.available = False
    async with here.pool(lone()) as pool:
        assert pool.status()[0].halted.startswith("nobody has answered yet")
        told: list[str] = []
        claim = asyncio.create_task(pool.claim(here.request(), lambda _, why: told.append(why)))
        await eventually(lambda: told)
        assert "the Docker engine did not answer" in told[-1]
        here.sandboxes.available = True
        here.timers.advance(2)
        async with asyncio.timeout(BOUND):
            await claim


async def test_while_the_engine_is_away_warm_claims_go_on_and_refill_backs_off(here: World) -> None:
    async with here.running(replace(BASE, min_idle=3, max=6)) as pool:
        here.sandboxes.available = False
        for _ in range(3):
            async with asyncio.timeout(BOUND):
                lease = await pool.claim(here.request())
            await pool.release(lease, "finished")
        await eventually(lambda: pool.status()[0].quarantined == 3 and pool.status()[0].failures >= 1)
        with pytest.raises(PerstackError) as caught:
            await pool.end(lease)
        assert caught.value.reason == "engine_unavailable"
        here.sandboxes.available = True
        here.timers.advance(6)
        await eventually(lambda: idle(pool) >= 1 and pool.status()[0].quarantined == 0)


async def test_a_reconcile_does_not_take_a_sandbox_that_is_just_starting_for_an_orphan(here: World) -> None:
    async with here.running(lone()) as pool:
        here.links.hold_hellos()
        lease = await pool.claim(here.request())
        await eventually(lambda: len(here.sandboxes.containers) == 2)
        here.timers.advance(30)
        await asyncio.sleep(0.02)
        here.links.release_hellos()
        await eventually(lambda: idle(pool) == 1)
        assert here.sandboxes.removed == []
        assert lease.record.id in here.sandboxes.containers
