import asyncio
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from perstackd.app.warm_pool import Lease, WarmPool
from perstackd.domain import pool as pool_rules
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import DEFAULT_TENANT, SandboxId
from perstackd.domain.sandbox import SandboxState, Template
from perstackd.domain.session import LinkLost, NextTurn, Ready
from perstackd.ports.sandboxes import ContainerEnd, EndCause
from tests.fakes.egress import FakeEgress
from tests.unit.app.warm_pool_world import BASE, BOUND, World, eventually, world

pytestmark = pytest.mark.anyio


class HangingEgress(FakeEgress):
    async def close(self, sandbox_id: SandboxId) -> None:
        await asyncio.get_running_loop().create_future()


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        yield made


def idle(pool: WarmPool) -> int:
    return sum(status.idle for status in pool.status())


async def claimed(pool: WarmPool, here: World, depth: int = 0, job: str = "", template: str = "base") -> Lease:
    """A claim, and the pause of the refill that follows it."""
    async with asyncio.timeout(BOUND):
        lease = await pool.claim(here.request(template, depth, job))
    here.timers.advance(pool_rules.CALM_SECONDS)
    return lease


async def test_entering_fills_the_pool_with_verified_sandboxes_and_proves_late_binding(here: World) -> None:
    async with here.running() as pool:
        assert pool.late_binding() == (True, "")
        assert {record.state for record in pool.records()} == {SandboxState.IDLE}
        assert {row.state for row in here.store.rows.values()} == {SandboxState.IDLE}
        assert all(record.container_id and record.image_id for record in pool.records())
        posture = pool.posture(pool.records()[0].id)
        assert posture is not None
        assert ("runner dumpable", "no") in {(check.name, check.actual) for check in posture.checks}
        assert here.workspaces.mounts == {}


async def test_a_sandbox_gets_a_uid_of_its_own_and_directories_that_only_it_can_use(here: World) -> None:
    async with here.running() as pool:
        records = pool.records()
        assert sorted(record.uid for record in records) == [200_000, 200_001]
        root = here.runtime / "s" / records[0].id
        modes = {path: stat.S_IMODE((root / path).stat().st_mode) for path in ("", "gw", "id", "id/passwd", "id/group")}
        assert modes == {"": 0o700, "gw": 0o755, "id": 0o755, "id/passwd": 0o644, "id/group": 0o644}
        uid = records[0].uid
        assert f"perstack:x:{uid}:{uid}:" in (root / "id/passwd").read_text()
        assert len((root / "id/passwd").read_text().splitlines()) == 2
        assert (root / "id/group").read_text() == f"root:x:0:\nperstack:x:{uid}:\n"
        assert here.egress.paths[records[0].id] == f"{root}/gw/egress.sock"
        assert here.links.made[records[0].id].path == f"{root}/gw/runner.sock"


async def test_a_warm_claim_makes_no_engine_call_and_is_durable(here: World) -> None:
    async with here.running() as pool:
        here.sandboxes.available = False
        told: list[tuple[int, str]] = []
        request = here.request(fence=7)
        lease = await pool.claim(request, lambda place, why: told.append((place, why)))
        await pool.confirm(lease)
        row = here.store.rows[lease.record.id]
        assert row == lease.record
        assert (row.state, row.tenant, row.job_id, row.run_id, row.fence) == (
            SandboxState.CLAIMED,
            DEFAULT_TENANT,
            request.job_id,
            request.run_id,
            7,
        )
        assert row.claimed_at == here.clock.now_ms()
        assert (lease.template, lease.slot) == (BASE, f"{here.runtime}/s/{row.id}/slot")
        assert (lease.workspace_path, lease.hello.landlock_abi) == ("/mnt/workspace", 4)
        assert told == []
        here.sandboxes.available = True


async def test_a_released_sandbox_is_destroyed_with_every_trace_and_the_pool_is_filled_again(here: World) -> None:
    async with here.running() as pool:
        lease = await claimed(pool, here)
        await pool.release(lease, "finished")
        await pool.release(lease, "finished again")
        await eventually(lambda: lease.record.id not in {record.id for record in pool.records()} and idle(pool) == 2)
        gone = lease.record.id
        assert here.sandboxes.removed == [gone]
        assert gone not in here.store.rows
        assert gone not in here.egress.paths
        assert gone not in here.directories()
        assert here.links.made[gone].closed
        await pool.release(lease, "long after")
        assert here.sandboxes.removed == [gone]


async def test_claims_that_wait_are_served_children_first_and_are_told_their_place(here: World) -> None:
    async with here.running(replace(BASE, min_idle=1, max=1)) as pool:
        holder = await claimed(pool, here)
        order: list[str] = []
        told: dict[str, list[tuple[int, str]]] = {name: [] for name in ("first", "second", "child")}

        async def run(name: str, depth: int) -> None:
            lease = await pool.claim(here.request(depth=depth), lambda place, why: told[name].append((place, why)))
            order.append(name)
            await pool.release(lease, "finished")

        async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
            here.sandboxes.hold_starts()  # the reserve must not serve the child
            group.create_task(run("first", 0))
            group.create_task(run("second", 0))
            await eventually(lambda: told["second"])
            group.create_task(run("child", 1))
            await eventually(lambda: told["child"])
            await pool.release(holder, "finished")
            here.sandboxes.release_starts()
        assert order == ["child", "first", "second"]
        assert told["child"][0][0] == 1
        assert [place for place, _ in told["first"]][:2] == [1, 2]
        assert [place for place, _ in told["second"]][:3] == [2, 3, 2]
        assert told["first"][0][1] == "all 1 sandboxes of the template 'base' are in use"


async def test_a_parent_and_its_child_fit_into_a_pool_of_one(here: World) -> None:
    async with here.running(replace(BASE, min_idle=1, max=1)) as pool:
        parent = await claimed(pool, here, job="j")
        child = await claimed(pool, here, depth=1, job="j")
        assert len({parent.record.id, child.record.id}) == 2
        assert len(here.sandboxes.containers) == 2


# --- giving up ------------------------------------------------------------------------------------------------------
async def test_a_claim_cancelled_while_it_waits_leaves_the_sandbox_to_the_pool(here: World) -> None:
    async with here.running(replace(BASE, min_idle=1, max=2)) as pool:
        await claimed(pool, here)
        await eventually(lambda: idle(pool) == 1)
        await claimed(pool, here)
        waiting: list[int] = []
        claim = asyncio.create_task(pool.claim(here.request(), lambda place, _: waiting.append(place)))
        await eventually(lambda: waiting)
        claim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claim
        assert pool.status()[0].waiting == 0
        assert pool.status()[0].claimed == 2


async def test_a_lease_given_up_while_its_row_is_written_leaves_no_sandbox(here: World) -> None:
    async with here.running() as pool:
        lease = await claimed(pool, here)
        here.rows.hold()
        confirming = asyncio.create_task(pool.confirm(lease))
        async with asyncio.timeout(BOUND):
            await here.rows.reached.wait()
        confirming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await confirming
        await pool.release(lease, "given up")
        here.rows.let_go()
        await eventually(lambda: idle(pool) == 2 and len(pool.records()) == 2)
        assert set(here.store.rows) == set(here.sandboxes.containers) == here.directories()


async def test_a_claim_cancelled_before_it_ever_ran_leaves_no_sandbox(here: World) -> None:
    async with here.running() as pool:
        claim = asyncio.create_task(pool.claim(here.request()))
        claim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claim
        assert (pool.status()[0].idle, pool.status()[0].claimed) == (2, 0)


async def test_a_claim_cancelled_just_as_it_is_handed_a_sandbox_leaves_none(here: World) -> None:
    async with here.running(replace(BASE, min_idle=0)) as pool:
        first = await claimed(pool, here)
        here.sandboxes.hold_starts()
        claim = asyncio.create_task(pool.claim(here.request()))
        await eventually(lambda: here.sandboxes.starting == 1)
        here.sandboxes.release_starts()
        while pool.status()[0].claimed == 1:  # the very step in which it is handed over
            await asyncio.sleep(0)
        claim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claim
        await eventually(lambda: set(here.sandboxes.containers) == here.directories() == {first.record.id})


async def test_what_the_waiting_callback_raises_ends_the_claim_and_nothing_else(here: World) -> None:
    async with here.running(replace(BASE, min_idle=1, max=1)) as pool:
        lease = await claimed(pool, here)

        def refuse(place: int, why: str) -> None:
            raise ValueError(f"{place}: {why}")

        with pytest.raises(ValueError, match="1: all 1 sandboxes"):
            await pool.claim(here.request(), refuse)
        assert pool.status()[0].waiting == 0
        await pool.release(lease, "finished")
        await claimed(pool, here)


async def test_a_claim_whose_row_cannot_be_written_is_told_and_its_sandbox_goes(here: World) -> None:
    async with here.running() as pool:
        lease = await claimed(pool, here)
        here.store.fail_writes = True
        with pytest.raises(PerstackError) as caught:
            await pool.confirm(lease)
        await pool.release(lease, "not confirmed")
        assert caught.value.reason == "store_unavailable"
        await eventually(lambda: pool.status()[0].quarantined == 2)  # the claimed one and the start that replaced it
        here.store.fail_writes = False
        here.timers.advance(6)
        await eventually(lambda: idle(pool) == 2 and len(pool.records()) == 2)


# --- refusals -------------------------------------------------------------------------------------------------------
async def test_claims_that_cannot_be_served_are_refused_with_the_remedy(here: World) -> None:
    async with here.running() as pool:
        with pytest.raises(PerstackError) as unknown:
            await pool.claim(here.request("full"))
        assert (unknown.value.kind, unknown.value.reason) == (Kind.NOT_FOUND, "template_not_found")
        assert "base" in unknown.value.message
        with pytest.raises(PerstackError) as deep:
            await pool.claim(here.request(depth=9))
        assert deep.value.reason == "delegation_too_deep"


async def test_only_so_many_new_jobs_may_wait_but_children_always(here: World) -> None:
    async with here.running(replace(BASE, min_idle=1, max=1), max_waiting=1) as pool:
        parent = await claimed(pool, here, job="j")
        waiting = asyncio.create_task(pool.claim(here.request()))
        await eventually(lambda: pool.status()[0].waiting == 1)
        with pytest.raises(PerstackError) as full:
            await pool.claim(here.request())
        assert full.value.reason == "pool_queue_full"
        assert (await claimed(pool, here, depth=1, job="j")).record.id != parent.record.id
        waiting.cancel()
        await asyncio.wait({waiting})


def test_a_runtime_directory_that_makes_sockets_unreachable_is_refused(here: World) -> None:
    with pytest.raises(PerstackError) as caught:
        replace(here, runtime=Path("/" + "x" * 70)).pool()
    assert caught.value.reason == "runtime_directory_invalid"


# --- the link -------------------------------------------------------------------------------------------------------
async def test_the_claimer_reads_asks_from_where_the_pool_stopped_without_loss(here: World) -> None:
    async with here.running() as pool:
        lease = await claimed(pool, here)
        link = here.links.made[lease.record.id]
        link.push(Ready("/mnt/workspace"))
        link.push(NextTurn(1))
        link.lose("gone")
        async with asyncio.timeout(BOUND):
            asks = [ask async for ask in lease.link.asks()]
        assert asks == [Ready("/mnt/workspace"), NextTurn(1), LinkLost("gone")]


async def test_a_reader_that_is_cancelled_at_once_takes_no_ask_from_the_next(here: World) -> None:
    async with here.running() as pool:
        lease = await claimed(pool, here)

        async def read() -> object:
            return await anext(aiter(lease.link.asks()))

        first = asyncio.create_task(read())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait({first})
        here.links.made[lease.record.id].push(NextTurn(1))
        async with asyncio.timeout(BOUND):
            assert await read() == NextTurn(1)


async def test_a_claimed_sandbox_whose_link_is_lost_stays_the_claimers_until_released(here: World) -> None:
    async with here.running() as pool:
        lease = await claimed(pool, here)
        here.sandboxes.kill(lease.record.id, EndCause.OOM_KILLED)
        here.links.made[lease.record.id].lose()
        assert await pool.end(lease) == ContainerEnd(EndCause.OOM_KILLED, 137, "ended with exit code 137")
        assert lease.record.id in {record.id for record in pool.records()}


# --- shutting down --------------------------------------------------------------------------------------------------
async def test_leaving_removes_every_sandbox_claimed_ones_included(here: World) -> None:
    async with here.running() as pool:
        lease = await claimed(pool, here)
    assert here.traces() == {}
    await pool.release(lease, "after the end")
    with pytest.raises(PerstackError) as caught:
        await pool.claim(here.request())
    assert caught.value.reason == "pool_closing"


async def test_leaving_while_sandboxes_start_leaves_nothing(here: World) -> None:
    async with here.running(replace(BASE, min_idle=1)) as pool:
        here.sandboxes.hold_starts()
        await claimed(pool, here)
        await eventually(lambda: here.sandboxes.starting == 1)
    assert here.traces() == {}


async def test_claims_that_wait_end_when_the_pool_is_left(here: World) -> None:
    async with here.running(replace(BASE, min_idle=1, max=1)) as pool:
        await claimed(pool, here)
        waiting = asyncio.create_task(pool.claim(here.request()))
        await eventually(lambda: pool.status()[0].waiting == 1)
    with pytest.raises(PerstackError) as caught:
        await waiting
    assert (caught.value.reason, caught.value.retryable) == ("pool_closing", True)


async def test_a_sandbox_that_resists_does_not_keep_the_daemon_from_ending(here: World) -> None:
    async with here.running() as pool:
        stuck = pool.records()[0].id
        here.sandboxes.stuck_removals.add(stuck)
    assert set(here.sandboxes.containers) == set(here.store.rows) == here.directories() == {stuck}


async def test_a_removal_that_hangs_ends_with_the_shutdowns_bound(here: World) -> None:
    here.egress = HangingEgress()
    async with here.running(shutdown_seconds=0.05) as pool:
        assert idle(pool) == 2
    assert len(here.sandboxes.containers) == 2


async def test_a_body_that_raises_still_has_its_sandboxes_removed(here: World) -> None:
    with pytest.raises(ValueError, match="mine"):
        async with here.running():
            raise ValueError("mine")
    assert here.traces() == {}


async def test_draining_refuses_new_jobs_keeps_nothing_idle_and_serves_children(here: World) -> None:
    async with here.running() as pool:
        lease = await claimed(pool, here, job="j")
        await eventually(lambda: idle(pool) == 2)
        await pool.drain()
        await pool.drain()
        await eventually(lambda: [record.id for record in pool.records()] == [lease.record.id])
        with pytest.raises(PerstackError) as caught:
            await pool.claim(here.request())
        assert caught.value.reason == "pool_draining"
        child = await claimed(pool, here, depth=1, job="j")
        await pool.release(child, "finished")
        await pool.release(lease, "finished")
        await eventually(lambda: not here.traces())


async def test_draining_ends_new_jobs_that_wait(here: World) -> None:
    async with here.running(replace(BASE, min_idle=1, max=1)) as pool:
        await claimed(pool, here)
        waiting = asyncio.create_task(pool.claim(here.request()))
        await eventually(lambda: pool.status()[0].waiting == 1)
        await pool.drain()
        with pytest.raises(PerstackError) as caught:
            await waiting
        assert caught.value.reason == "pool_draining"


async def test_pools_of_several_templates_are_filled_and_proven_each(here: World) -> None:
    here.sandboxes.images["perstack/full:latest"] = "sha256:full"
    full = Template("full", "perstack/full:latest", min_idle=3, max=5)
    async with here.running(BASE, full) as pool:
        assert [(status.template, status.idle) for status in pool.status()] == [("base", 2), ("full", 3)]
        assert pool.late_binding() == (True, "")
        assert pool.status()[1].image_id == "sha256:full"
        assert here.sandboxes.peak_starting <= 3
        assert (await claimed(pool, here, template="full")).template == full
