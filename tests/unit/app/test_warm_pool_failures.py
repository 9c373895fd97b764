"""What goes wrong: starts that fail at each stage, sandboxes that die, removals that resist, an engine that is away."""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from perstackd.app.warm_pool import WarmPool
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import JobId, SandboxId
from perstackd.domain.sandbox import SandboxRecord, SandboxState, Template
from perstackd.domain.session import Failure, Hello, NextTurn
from perstackd.domain.workspace import WorkspaceSpec
from perstackd.ports.sandboxes import EndCause, SandboxDirectories
from tests.fakes.workspaces import FakeWorkspaces
from tests.unit.app.warm_pool_world import BASE, BOUND, World, eventually, world

pytestmark = pytest.mark.anyio
REFUSED = PerstackError(Kind.UNAVAILABLE, "told_to", "the test says no")


class Failing(FakeWorkspaces):
    """`prepare` fails while `refuse`, `prove` by `proof_error`; `sticky` keeps what is detached visible."""

    refuse = False
    sticky = False
    proof_error: PerstackError | None = None

    async def prepare(self, slot: str, uid: int) -> None:
        if self.refuse:
            raise REFUSED
        await super().prepare(slot, uid)

    async def prove(self, slot: str, uid: int) -> str:
        if self.proof_error is not None:
            raise self.proof_error
        return await super().prove(slot, uid)

    async def detach(self, sandbox_id: SandboxId, slot: str) -> None:
        if not self.sticky:
            await super().detach(sandbox_id, slot)


@pytest.fixture
def here() -> Iterator[World]:
    with world() as made:
        made.workspaces = made.links.workspaces = Failing()
        yield made


def failing(here: World) -> Failing:
    assert isinstance(here.workspaces, Failing)
    return here.workspaces


def idle(pool: WarmPool) -> int:
    return sum(status.idle for status in pool.status())


def lone(idle: int = 1, maximum: int = 2) -> Template:
    return replace(BASE, min_idle=idle, max=maximum)


# --- starts that fail -----------------------------------------------------------------------------------------------
def _no_image(here: World) -> None:
    here.sandboxes.images.clear()


def _no_row(here: World) -> None:
    here.store.fail_writes = True


def _no_directory(here: World) -> None:
    (here.runtime / "s").symlink_to("nowhere")


def _no_slot(here: World) -> None:
    failing(here).refuse = True


def _no_link(here: World) -> None:
    here.links.failure = REFUSED


def _no_egress(here: World) -> None:
    here.egress.failure = REFUSED


def _no_container(here: World) -> None:
    here.sandboxes.failing_starts = 1


def _no_hello(here: World) -> None:
    here.links.hello = None


def _old_runner(here: World) -> None:
    here.links.say(protocol_version=99)


def _weak(here: World) -> None:
    here.sandboxes.weak.add("seccomp")


def _dumpable(here: World) -> None:
    here.links.say(dumpable=True)


def _no_marker(here: World) -> None:
    failing(here).proof_error = REFUSED


STAGES = [
    _no_image,
    _no_row,
    _no_directory,
    _no_slot,
    _no_link,
    _no_egress,
    _no_container,
    _no_hello,
    _old_runner,
    _weak,
    _dumpable,
    _no_marker,
]


def _mend(here: World) -> None:
    here.sandboxes.images["perstack/base:latest"] = "sha256:base"
    here.store.fail_writes = False
    if (here.runtime / "s").is_symlink():
        (here.runtime / "s").unlink()
    failing(here).refuse = False
    here.links.failure = here.egress.failure = failing(here).proof_error = None
    here.sandboxes.failing_starts = 0
    here.sandboxes.weak.clear()
    here.links.say()


@pytest.mark.parametrize("broken", STAGES, ids=lambda stage: stage.__name__.strip("_"))
async def test_a_start_that_fails_leaves_nothing_is_counted_and_is_tried_again(
    here: World, broken: Callable[[World], None]
) -> None:
    broken(here)
    async with here.pool(lone()) as pool:
        await eventually(lambda: pool.status()[0].failures >= 1)
        _mend(here)
        # what could not be removed while the world was broken goes once its quarantine's pause is over
        await eventually(lambda: pool.status()[0].removing == 0)
        here.timers.advance(10)
        await eventually(lambda: idle(pool) == 1 and len(pool.records()) == 1)
        assert pool.status()[0].failures == 0
        survivor = pool.records()[0].id
        kept = {what for kind in here.traces().values() for what in kind}  # type: ignore[attr-defined]
        assert kept == {survivor}
    assert here.traces() == {}


async def test_a_start_that_fails_for_a_cause_unforeseen_is_a_failed_start_and_not_the_end_of_the_pool(
    here: World,
) -> None:
    def explode(record: SandboxRecord, directories: SandboxDirectories) -> None:
        raise ZeroDivisionError(record.id)

    here.sandboxes.on_start = explode
    async with here.pool(lone()) as pool:
        await eventually(lambda: pool.status()[0].failures == 1)
        here.sandboxes.on_start = None
        here.timers.advance(1)
        await eventually(lambda: idle(pool) == 1)


async def test_a_posture_that_differs_names_the_fields_and_can_be_looked_at_afterwards(here: World) -> None:
    here.sandboxes.weak.add("seccomp")
    async with here.pool(lone()) as pool:
        await eventually(lambda: pool.status()[0].failures == 1)
        started = here.sandboxes.started[0]
        assert "seccomp is 'weakened' instead of 'as asked'" in pool.late_binding()[1]
        posture = pool.posture(started)
        assert posture is not None
        assert [check.name for check in posture.failed] == ["seccomp"]


async def test_postures_of_ended_sandboxes_are_forgotten_after_ten_minutes(here: World) -> None:
    async with here.running(lone()) as pool:
        lease = await pool.claim(here.request())
        await pool.release(lease, "finished")
        here.clock.advance(599)
        assert pool.posture(lease.record.id) is not None
        here.clock.advance(2)
        assert pool.posture(lease.record.id) is None


async def test_five_failed_starts_halt_the_pool_tell_those_who_wait_and_a_good_one_ends_it(here: World) -> None:
    here.sandboxes.images.clear()
    async with here.pool(lone()) as pool:
        told: list[str] = []
        claim = asyncio.create_task(pool.claim(here.request(), lambda _, why: told.append(why)))
        for failures in range(2, 6):
            here.timers.advance(2)
            await eventually(lambda failures=failures: pool.status()[0].failures == failures)  # type: ignore[misc]
        assert "is not on this engine; build it with `make images`" in pool.status()[0].halted
        await eventually(lambda: "is halted after 5 or more failed starts in a row" in told[-1])
        here.timers.advance(4.9)
        await asyncio.sleep(0)
        assert pool.status()[0].starting == 0
        here.sandboxes.images["perstack/base:latest"] = "sha256:base"
        here.timers.advance(0.2)
        async with asyncio.timeout(BOUND):
            assert (await claim).record.state is SandboxState.CLAIMED
        assert pool.status()[0].halted == ""


async def test_a_pool_without_free_uids_says_so(here: World) -> None:
    async with here.pool(replace(BASE, min_idle=2, max=3), uid_first=300_000, uid_last=300_000) as pool:
        await eventually(lambda: idle(pool) == 1)
        await eventually(lambda: pool.status()[0].failures >= 1)
        told: list[str] = []
        await pool.claim(here.request())
        waiting = asyncio.create_task(pool.claim(here.request(), lambda _, why: told.append(why)))
        await eventually(lambda: told and "uids of sandboxes are in use" in told[-1])
        waiting.cancel()
        await asyncio.wait({waiting})


# --- late binding ---------------------------------------------------------------------------------------------------
async def _disproved(here: World, why: str) -> None:
    async with here.pool(lone()) as pool:
        assert pool.late_binding()[0] is False
        assert why in pool.late_binding()[1]
        with pytest.raises(PerstackError) as caught:
            await pool.claim(here.request())
        assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "late_binding_unavailable")
        assert why in caught.value.message
        here.workspaces.mounts.clear()
        await eventually(lambda: not here.sandboxes.containers)
        here.timers.advance(60)
        await asyncio.sleep(0)
        assert pool.status()[0].starting == 0


async def test_no_claim_is_served_where_a_late_mount_is_not_seen_inside(here: World) -> None:
    here.workspaces.blind = True
    await _disproved(here, "a marker that was mounted on the host is not seen in the sandbox; run the daemon in")


async def test_no_claim_is_served_where_a_detached_workspace_stays_visible(here: World) -> None:
    failing(here).sticky = True
    await _disproved(here, "a marker that was unmounted on the host is still seen")


async def test_no_claim_is_served_where_a_marker_cannot_be_mounted_and_the_claim_says_why(here: World) -> None:
    failing(here).proof_error = PerstackError(Kind.PRECONDITION, "workspace_unsupported", "no idmapped mounts here")
    await _disproved(here, "a marker cannot be mounted: no idmapped mounts here")


async def test_a_claim_that_waits_for_the_proof_ends_when_it_fails(here: World) -> None:
    here.workspaces.blind = True
    here.sandboxes.hold_starts()
    async with here.pool(lone(), boot_seconds=0.05) as pool:
        claim = asyncio.create_task(pool.claim(here.request()))
        await eventually(lambda: pool.status()[0].waiting == 1)
        here.sandboxes.release_starts()
        with pytest.raises(PerstackError) as caught:
            await claim
        assert caught.value.reason == "late_binding_unavailable"


async def test_a_runner_that_does_not_answer_the_probe_is_a_failed_start_and_proves_nothing(here: World) -> None:
    here.links.workspaces = None
    async with here.pool(lone(), probe_seconds=0.05) as pool:
        assert pool.status()[0].failures == 1
        assert "did not say within 0.05 s" in pool.late_binding()[1]
        here.links.workspaces = here.workspaces
        here.timers.advance(1)
        await eventually(lambda: idle(pool) == 1)
        assert pool.late_binding() == (True, "")


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


# --- left-overs and the engine --------------------------------------------------------------------------------------
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
