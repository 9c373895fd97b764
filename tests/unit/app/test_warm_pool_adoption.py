"""What a daemon that was killed leaves: idle sandboxes are adopted once they have proven themselves, the rest goes."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from perstackd.app.warm_pool import WarmPool
from perstackd.domain.ids import JobId, SandboxId
from perstackd.domain.pool import CALM_SECONDS
from perstackd.domain.sandbox import SandboxState
from perstackd.domain.session import NextTurn, ProbeResult
from perstackd.domain.workspace import WorkspaceSpec
from perstackd.ports.sandboxes import EndCause
from tests.unit.app.warm_pool_world import BASE, BOUND, World, eventually, world

pytestmark = pytest.mark.anyio


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        yield made


def ids(pool: WarmPool, state: SandboxState = SandboxState.IDLE) -> set[SandboxId]:
    return {record.id for record in pool.records() if record.state is state}


async def left_idle(here: World) -> set[SandboxId]:
    """The ids of two idle sandboxes whose daemon was killed."""
    async with here.killed() as before:
        return ids(before)


# --- adopted --------------------------------------------------------------------------------------------------------
async def test_idle_sandboxes_of_a_killed_daemon_are_adopted_and_nothing_is_started(here: World) -> None:
    left = await left_idle(here)
    rows = dict(here.store.rows)
    async with here.pool() as pool:
        assert ids(pool) == left
        assert here.sandboxes.started == []
        assert here.sandboxes.removed == []
        assert here.store.rows == rows
        status = pool.status()[0]
        assert (status.idle, status.started_total, status.failures, status.image_id) == (
            2,
            0,
            0,
            here.sandboxes.images[BASE.image],
        )
        assert pool.late_binding() == (True, "")
        assert all(pool.posture(each) for each in left)
        assert here.egress.rules == dict.fromkeys(left, ())
        assert here.workspaces.mounts == {}
    assert here.traces() == {}


async def test_a_row_keeps_the_hash_of_the_session_and_not_its_token(here: World) -> None:
    async with here.running() as pool:
        for record in pool.records():
            stored = here.store.rows[record.id].session_token_hash
            assert stored == here.links.made[record.id].token_hash
            assert here.links.tokens[record.id] not in str(here.store.rows[record.id])


async def test_an_adopted_sandbox_is_claimed_watched_and_replaced_as_any_other(here: World) -> None:
    left = await left_idle(here)
    async with here.pool() as pool:
        async with asyncio.timeout(BOUND):
            lease = await pool.claim(here.request())
        await pool.confirm(lease)
        here.timers.advance(CALM_SECONDS)
        assert lease.record.id in left
        assert here.store.rows[lease.record.id].state is SandboxState.CLAIMED
        (other,) = left - {lease.record.id}
        here.links.made[other].push(NextTurn(1))
        await eventually(lambda: other not in here.sandboxes.containers)
        await eventually(lambda: len(ids(pool)) == 2 and not ids(pool) & left)
        uids = [record.uid for record in pool.records()]
        assert len(uids) == len(set(uids))


async def test_too_few_adopted_ones_are_filled_up_with_new_uids(here: World) -> None:
    left = await left_idle(here)
    async with here.running(replace(BASE, min_idle=3)) as pool:
        assert left < ids(pool)
        uids = [record.uid for record in pool.records()]
        assert len(set(uids)) == 3


async def test_what_was_mounted_for_a_claim_that_was_not_confirmed_is_detached(here: World) -> None:
    async with here.killed() as before:
        lease = await before.claim(here.request())
        await here.workspaces.open(JobId("j"), lease.record.tenant, WorkspaceSpec())
        await here.workspaces.attach(JobId("j"), lease.record.id, lease.slot, lease.record.uid)
    assert lease.slot in here.workspaces.mounts
    async with here.pool():
        assert here.workspaces.mounts == {}


# --- removed --------------------------------------------------------------------------------------------------------
async def test_a_claimed_sandbox_that_no_run_wants_back_and_one_that_was_starting_are_removed(here: World) -> None:
    async with here.killed() as before:
        lease = await before.claim(here.request())
        await before.confirm(lease)
        here.timers.advance(CALM_SECONDS)
        await eventually(lambda: len(ids(before)) == 2)
        starting, kept = sorted(ids(before))
    here.store.rows[starting] = replace(here.store.rows[starting], state=SandboxState.STARTING)
    async with here.pool() as pool:
        pool.returns.keep(())
        await eventually(lambda: kept in ids(pool))
        await eventually(lambda: set(here.sandboxes.removed) == {lease.record.id, starting})
        await eventually(lambda: not here.directories() & {lease.record.id, starting})


async def test_an_idle_sandbox_that_was_being_removed_is_not_adopted(here: World) -> None:
    async with here.killed() as before:
        odd = sorted(ids(before))[0]
        here.sandboxes.stuck_removals.add(odd)
        here.links.made[odd].push(NextTurn(1))
        await eventually(lambda: before.status()[0].quarantined == 1)
        assert here.store.rows[odd].state is SandboxState.REMOVING
        here.sandboxes.stuck_removals.clear()
    async with here.running() as pool:
        await eventually(lambda: odd in here.sandboxes.removed)
        assert odd not in ids(pool)


def _no_token(here: World, sandbox_id: SandboxId) -> None:
    here.links.tokens[sandbox_id] = "another"


def _no_hash(here: World, sandbox_id: SandboxId) -> None:
    here.store.rows[sandbox_id] = replace(here.store.rows[sandbox_id], session_token_hash="")


def _once_claimed(here: World, sandbox_id: SandboxId) -> None:
    here.store.rows[sandbox_id] = replace(here.store.rows[sandbox_id], claimed_at=1)


def _ended(here: World, sandbox_id: SandboxId) -> None:
    here.sandboxes.kill(sandbox_id)


def _gone(here: World, sandbox_id: SandboxId) -> None:
    here.sandboxes.kill(sandbox_id, EndCause.GONE)


def _weak(here: World, sandbox_id: SandboxId) -> None:
    here.sandboxes.weak_sandboxes.add(sandbox_id)


def _other_image(here: World, sandbox_id: SandboxId) -> None:
    here.store.rows[sandbox_id] = replace(here.store.rows[sandbox_id], image_id="sha256:older")


def _other_runtime(here: World, sandbox_id: SandboxId) -> None:
    here.store.rows[sandbox_id] = replace(here.store.rows[sandbox_id], runtime="runsc")


def _other_template(here: World, sandbox_id: SandboxId) -> None:
    here.store.rows[sandbox_id] = replace(here.store.rows[sandbox_id], template="not-configured")


def _other_uid(here: World, sandbox_id: SandboxId) -> None:
    here.store.rows[sandbox_id] = replace(here.store.rows[sandbox_id], uid=1000)


DEFECTS = [
    _no_token,
    _no_hash,
    _once_claimed,
    _ended,
    _gone,
    _weak,
    _other_image,
    _other_runtime,
    _other_template,
    _other_uid,
]


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__.strip("_"))
async def test_one_that_is_not_as_it_should_be_is_removed_and_the_others_stay(
    here: World, defect: Callable[[World, SandboxId], None]
) -> None:
    bad, good = sorted(await left_idle(here))
    defect(here, bad)
    async with here.running(return_seconds=0.05) as pool:
        assert good in ids(pool)
        await eventually(lambda: bad not in {*here.sandboxes.containers, *here.store.rows, *here.directories()})
        assert bad not in ids(pool)
        assert pool.status()[0].failures == 0
    assert here.traces() == {}


async def test_one_that_sees_no_late_mount_is_removed_and_disproves_nothing(here: World) -> None:
    left = await left_idle(here)
    blind = {here.links.made[each].slot for each in left}
    seen = here.workspaces.probe
    here.links.workspaces = here.workspaces
    here.workspaces.probe = lambda slot, path: None if slot in blind else seen(slot, path)  # type: ignore[method-assign]
    async with here.running() as pool:
        assert not left & ids(pool)
        assert pool.late_binding() == (True, "")


async def test_a_runner_that_does_not_answer_is_given_up_in_time(here: World) -> None:
    left = await left_idle(here)
    here.links.workspaces = None
    async with here.pool(probe_seconds=0.05) as pool:
        here.links.workspaces = here.workspaces
        here.timers.advance(1)
        await eventually(lambda: len(ids(pool)) == 2)
        assert not left & ids(pool)


async def test_no_more_than_max_are_adopted(here: World) -> None:
    left = await left_idle(here)
    async with here.running(replace(BASE, min_idle=1, max=1)) as pool:
        assert ids(pool) == {min(left)}
        await eventually(lambda: here.sandboxes.removed == [max(left)])


async def test_a_stop_while_they_are_being_adopted_removes_them(here: World) -> None:
    await left_idle(here)
    here.links.hold_hellos()
    async with here.pool(boot_seconds=0.05):
        pass
    assert here.traces() == {}


async def test_adoption_waits_for_an_engine_that_is_away(here: World) -> None:
    left = await left_idle(here)
    here.sandboxes.available = False
    async with here.pool() as pool:
        assert pool.records() == ()
        here.sandboxes.available = True
        here.timers.advance(2)
        await eventually(lambda: ids(pool) == left)


async def test_an_answer_that_nobody_asked_for_does_not_end_the_adoption_of_others(here: World) -> None:
    bad, good = sorted(await left_idle(here))
    listen = here.links.listen

    async def odd(sandbox_id: SandboxId, path: str, token_hash: str = "", *, repeats: bool = False) -> object:
        link = await listen(sandbox_id, path, token_hash, repeats=repeats)
        if sandbox_id == bad:
            link.push(ProbeResult(b"what was asked by the daemon before"))
        return link

    here.links.listen = odd  # type: ignore[method-assign,assignment]
    async with here.running() as pool:
        assert good in ids(pool)
        assert bad not in ids(pool)
