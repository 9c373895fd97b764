"""Sandboxes of a pool that die, and removals that resist."""

import asyncio
from collections.abc import Iterator

import pytest

from perstackd.domain.ids import JobId
from perstackd.domain.session import Failure, Hello, NextTurn
from perstackd.domain.workspace import WorkspaceSpec
from perstackd.ports.sandboxes import EndCause
from tests.unit.app.failing_world import failing_world, idle, lone
from tests.unit.app.warm_pool_world import BOUND, World, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def here() -> Iterator[World]:
    with failing_world() as made:
        yield made


# --- sandboxes that die ---------------------------------------------------------------------------------------------
async def test_an_idle_sandbox_whose_link_is_lost_is_removed_and_replaced(here: World) -> None:
    async with here.running(lone()) as pool:
        dead = pool.records()[0].id
        here.sandboxes.kill(dead)
        here.links.made[dead].lose()
        await eventually(lambda: dead not in here.sandboxes.containers)
        here.timers.advance(0.3)
        await eventually(lambda: idle(pool) == 1 and dead not in {record.id for record in pool.records()})


async def test_a_pause_that_ends_a_moment_early_is_waited_out(here: World) -> None:
    async with here.running(lone()) as pool:
        here.timers.early = 0.01
        here.sandboxes.failing_starts = 1
        await pool.claim(here.request())
        await eventually(lambda: pool.status()[0].failures == 1 and pool.status()[0].removing == 0)
        here.timers.advance(0.245)
        await asyncio.sleep(0)
        assert pool.status()[0].starting == 0
        here.timers.advance(0.01)
        await eventually(lambda: idle(pool) == 1)


@pytest.mark.parametrize("ask", [NextTurn(1), Failure("broken", "no memory")], ids=["asks", "fails"])
async def test_an_idle_runner_that_says_what_an_idle_one_does_not_is_removed(
    here: World, ask: NextTurn | Failure
) -> None:
    async with here.running(lone()) as pool:
        odd = pool.records()[0].id
        here.links.made[odd].push(ask)
        await eventually(lambda: odd not in here.sandboxes.containers)


async def test_a_runner_that_says_hello_again_stays_and_is_still_watched(here: World) -> None:
    async with here.running(lone()) as pool:
        same = pool.records()[0].id
        here.links.made[same].push(Hello(1, "0.1.0", "3.13.0", 4, dumpable=False))
        lease = await pool.claim(here.request())
        here.links.made[same].push(NextTurn(1))
        assert lease.record.id == same
        async with asyncio.timeout(BOUND):
            assert [await anext(asks := aiter(lease.link.asks())), await anext(asks)][-1] == NextTurn(1)


async def test_an_idle_sandbox_whose_container_is_gone_is_noticed_by_the_next_reconcile(here: World) -> None:
    async with here.running(lone()) as pool:
        gone = pool.records()[0].id
        here.sandboxes.kill(gone, EndCause.GONE)
        here.timers.advance(30)
        await eventually(lambda: gone not in {record.id for record in pool.records()})


# --- removals that resist -------------------------------------------------------------------------------------------
async def test_a_removal_that_fails_is_quarantined_blocks_no_claim_and_is_tried_again_later(here: World) -> None:
    async with here.running(lone(idle=1, maximum=1)) as pool:
        lease = await pool.claim(here.request())
        stuck, uid = lease.record.id, lease.record.uid
        here.sandboxes.stuck_removals.add(stuck)
        await pool.release(lease, "finished")
        await eventually(lambda: pool.status()[0].quarantined == 1)
        assert [problem.partition(":")[0] for problem in pool.problems(stuck)] == ["remove container"]
        async with asyncio.timeout(BOUND):
            other = await pool.claim(here.request())
        assert other.record.uid != uid
        assert stuck in here.store.rows
        assert stuck in here.directories()
        here.timers.advance(4.9)
        here.sandboxes.stuck_removals.clear()
        await asyncio.sleep(0)
        assert stuck in here.sandboxes.containers
        here.timers.advance(0.2)
        await eventually(lambda: stuck not in {record.id for record in pool.records()})
        assert stuck not in here.store.rows
        assert stuck not in here.directories()


async def test_a_workspace_that_is_still_mounted_keeps_its_content_and_its_row(here: World) -> None:
    async with here.running(lone()) as pool:
        lease = await pool.claim(here.request())
        project = here.runtime / "s" / lease.record.id / "slot" / "workspace"
        project.mkdir(parents=True)
        (project / "precious").write_text("mine")  # as if the mount were still there
        await pool.release(lease, "finished")
        await eventually(lambda: pool.status()[0].quarantined == 1)
        assert (project / "precious").read_text() == "mine"
        assert lease.record.id in here.store.rows
        (project / "precious").unlink()
        here.timers.advance(6)
        await eventually(lambda: lease.record.id not in here.directories())


async def test_the_workspace_is_detached_before_anything_else_of_a_sandbox_goes(here: World) -> None:
    async with here.running(lone()) as pool:
        lease = await pool.claim(here.request())
        await here.workspaces.open(JobId("j"), lease.record.tenant, WorkspaceSpec())
        await here.workspaces.attach(JobId("j"), lease.record.id, lease.slot, lease.record.uid)
        here.sandboxes.stuck_removals.add(lease.record.id)
        await pool.release(lease, "finished")
        await eventually(lambda: pool.status()[0].quarantined == 1)
        assert here.workspaces.mounts == {}
        assert here.links.made[lease.record.id].closed
        assert lease.record.id not in here.egress.paths
        here.sandboxes.stuck_removals.clear()
