"""What goes wrong at a pool's starts: each stage, late binding that is not there, and what a claim is told."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.sandbox import SandboxRecord, SandboxState
from perstackd.ports.sandboxes import SandboxDirectories
from tests.unit.app.failing_world import REFUSED, failing, failing_world, idle, lone
from tests.unit.app.warm_pool_world import BASE, BOUND, World, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
def here() -> Iterator[World]:
    with failing_world() as made:
        yield made


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
