"""The sandboxes of one run, claimed together from several pools."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import pytest

from perstackd.app.warm_pool import ClaimRequest, Lease, WarmPool
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.sandbox import SandboxState
from tests.unit.app.warm_pool_world import BASE, BOUND, World, eventually, world

pytestmark = pytest.mark.anyio
ONE = replace(BASE, min_idle=1, max=1)
SKILLS = replace(BASE, name="skills", min_idle=2, max=2)


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        yield made


async def together(pool: WarmPool, requests: tuple[ClaimRequest, ...]) -> tuple[Lease, ...]:
    async with asyncio.timeout(BOUND):
        return await pool.claim_together(requests)


def counts(pool: WarmPool) -> dict[str, tuple[int, int, int]]:
    return {status.template: (status.idle, status.claimed, status.waiting) for status in pool.status()}


async def waits(pool: WarmPool, requests: tuple[ClaimRequest, ...]) -> "asyncio.Task[tuple[Lease, ...]]":
    """A claim that has entered the queues."""
    before = sum(status.waiting for status in pool.status())
    task = asyncio.create_task(pool.claim_together(requests))
    await eventually(lambda: sum(status.waiting for status in pool.status()) == before + len(requests))
    return task


async def cancelled(task: "asyncio.Task[tuple[Lease, ...]]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_warm_group_is_claimed_without_the_engine_in_the_order_of_the_requests(here: World) -> None:
    async with here.running(BASE, SKILLS) as pool:
        here.sandboxes.available = False
        requests = here.group("skills", "base", "skills")
        leases = await together(pool, requests)
        for lease in leases:
            await pool.confirm(lease)
        assert [lease.template.name for lease in leases] == ["skills", "base", "skills"]
        rows = [here.store.rows[lease.record.id] for lease in leases]
        assert len(rows) == len({row.uid for row in rows}) == 3
        assert {(row.state, row.job_id, row.run_id) for row in rows} == {
            (SandboxState.CLAIMED, requests[0].job_id, requests[0].run_id)
        }
        here.sandboxes.available = True


async def test_a_group_waits_for_the_last_of_its_sandboxes_and_holds_none_until_then(here: World) -> None:
    async with here.running(ONE, SKILLS) as pool:
        holder = await pool.claim(here.request())
        told: list[tuple[int, str]] = []
        requests = here.group("base", "skills", "skills")
        task = asyncio.create_task(pool.claim_together(requests, lambda place, why: told.append((place, why))))
        await eventually(lambda: told)
        assert counts(pool) == {"base": (0, 1, 1), "skills": (2, 0, 2)}
        behind = await waits(pool, (here.request("skills"),))
        await pool.release(holder, "finished")
        async with asyncio.timeout(BOUND):
            leases = await task
        assert [lease.template.name for lease in leases] == ["base", "skills", "skills"]
        assert told[0] == (1, "all 1 sandboxes of the template 'base' are in use")
        assert not behind.done()
        await pool.release(leases[2], "finished")
        async with asyncio.timeout(BOUND):
            assert (await behind)[0].template == SKILLS


async def test_a_parent_and_its_child_that_each_need_every_sandbox_both_get_them(here: World) -> None:
    async with here.running(ONE, SKILLS) as pool:
        parent = await together(pool, here.group("base", "skills", "skills", job="j"))
        child = await together(pool, here.group("base", "skills", "skills", depth=1, job="j"))
        assert len({lease.record.id for lease in (*parent, *child)}) == 6
        assert len(here.sandboxes.containers) == 6


# --- giving up ------------------------------------------------------------------------------------------------------
async def test_a_group_cancelled_while_it_waits_leaves_all_queues_and_every_sandbox_to_the_pools(here: World) -> None:
    async with here.running(ONE, SKILLS) as pool:
        await pool.claim(here.request())
        await cancelled(await waits(pool, here.group("base", "skills")))
        assert counts(pool) == {"base": (0, 1, 0), "skills": (2, 0, 0)}
        assert len(await together(pool, here.group("skills", "skills"))) == 2


async def test_who_is_behind_a_group_that_gives_up_is_served_at_once(here: World) -> None:
    async with here.running(ONE, SKILLS) as pool:
        await pool.claim(here.request())
        group = await waits(pool, here.group("base", "skills", "skills"))
        behind = await waits(pool, (here.request("skills"),))
        await cancelled(group)
        async with asyncio.timeout(BOUND):
            await behind


async def test_a_group_cancelled_just_as_it_is_handed_its_sandboxes_leaves_none(here: World) -> None:
    async with here.running(replace(BASE, min_idle=0), SKILLS) as pool:
        first = await pool.claim(here.request())
        here.sandboxes.hold_starts()
        task = await waits(pool, here.group("base", "skills"))
        here.sandboxes.release_starts()
        while pool.status()[1].claimed == 0:  # the very step in which they are handed over
            await asyncio.sleep(0)
        handed = {record.id for record in pool.records() if record.state is SandboxState.CLAIMED} - {first.record.id}
        assert len(handed) == 2
        await cancelled(task)
        await eventually(lambda: handed <= set(here.sandboxes.removed))
        await eventually(lambda: not handed & {record.id for record in pool.records()})


async def test_what_the_waiting_callback_raises_ends_the_whole_claim(here: World) -> None:
    async with here.running(ONE, SKILLS) as pool:
        await pool.claim(here.request())

        def refuse(place: int, why: str) -> None:
            raise ValueError(f"{place}: {why}")

        with pytest.raises(ValueError, match="1: all 1 sandboxes"):
            await pool.claim_together(here.group("skills", "base"), refuse)
        assert counts(pool) == {"base": (0, 1, 0), "skills": (2, 0, 0)}


# --- refusals -------------------------------------------------------------------------------------------------------
async def test_a_group_that_could_never_be_served_is_refused_with_what_to_raise(here: World) -> None:
    async with here.running(BASE, SKILLS) as pool:
        with pytest.raises(PerstackError) as caught:
            await pool.claim_together(here.group("base", "skills", "skills", "skills"))
        assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "skills_exceed_pool")
        assert "3 sandboxes of the template 'skills' at once (skill 'skill-1', " in caught.value.message
        assert "has at most 2; raise max of this template to 3 or more" in caught.value.message
        assert caught.value.fields == {"template": "skills", "needed": "3", "max": "2"}
        assert counts(pool)["base"] == (2, 0, 0)


async def test_an_unknown_template_in_a_group_refuses_all_of_it(here: World) -> None:
    async with here.running() as pool:
        with pytest.raises(PerstackError) as caught:
            await pool.claim_together(here.group("base", "skills"))
        assert caught.value.reason == "template_not_found"
        assert counts(pool) == {"base": (2, 0, 0)}


async def test_claims_of_different_runs_or_of_none_are_a_defect_of_the_caller(here: World) -> None:
    async with here.running() as pool:
        with pytest.raises(ValueError, match="of one run"):
            await pool.claim_together((here.request(), here.request()))
        with pytest.raises(ValueError, match="nothing"):
            await pool.claim_together(())
        assert counts(pool) == {"base": (2, 0, 0)}


async def _drain(pool: WarmPool) -> None:
    await pool.drain()


async def _leave(pool: WarmPool) -> None:
    await pool.__aexit__(None, None, None)


@pytest.mark.parametrize(("end", "reason"), [(_drain, "pool_draining"), (_leave, "pool_closing")])
async def test_a_group_that_waits_ends_once_when_the_pool_is_drained_or_left(
    here: World, end: Callable[[WarmPool], Awaitable[None]], reason: str
) -> None:
    async with here.running(ONE, SKILLS) as pool:
        await pool.claim(here.request())
        task = await waits(pool, here.group("skills", "base"))
        await end(pool)
        with pytest.raises(PerstackError) as caught:
            await task
        assert caught.value.reason == reason
        assert [waiting for _, _, waiting in counts(pool).values()] == [0, 0]
