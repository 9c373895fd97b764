"""Real mounts without containers: who owns what, and what is checked before a sandbox gets one."""

import asyncio
import os
import stat
import threading
from collections.abc import Callable

import pytest

from perstackd.adapters.workspaces import syscalls
from perstackd.domain.errors import PerstackError
from tests.integration.workspaces.attached import EPHEMERAL, attach
from tests.integration.workspaces.rig import (
    ALICE,
    BOX,
    FIRST,
    JOB,
    OTHER_JOB,
    SPARE,
    TENANT,
    Rig,
    as_uid,
    descriptors,
    named_spec,
    path_spec,
)

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


async def test_files_appear_as_the_sandbox_and_belong_to_the_owner_on_the_host(real: Rig) -> None:
    project = real.project("p")
    os.chown(project, ALICE, ALICE + 1)
    workspace = await attach(real, path_spec(project))
    assert as_uid(FIRST, workspace, "stat -c %u:%g .").stdout == f"{FIRST}:{FIRST}\n"
    assert as_uid(FIRST, workspace, "echo x > made && mkdir dir").returncode == 0
    for name in ("made", "dir"):
        found = (project / name).stat()
        assert (found.st_uid, found.st_gid) == (ALICE, ALICE + 1)


@pytest.mark.parametrize("group", [0, 4, 100])
async def test_a_privileged_group_can_be_seen_and_not_be_taken(real: Rig, group: int) -> None:
    project = real.project("p")
    os.chown(project, ALICE, group)
    project.chmod(0o2770)  # files made below inherit the group
    workspace = await attach(real, path_spec(project))
    assert (
        as_uid(FIRST, workspace, f"echo x > made; chmod 2755 made; chgrp {FIRST} made; chmod 2755 made").returncode == 0
    )
    assert as_uid(FIRST, workspace, "stat -c %g .; echo x > inherits; chmod 2755 inherits").stdout == f"{SPARE}\n"
    assert ((project / "made").stat().st_gid, (project / "inherits").stat().st_gid) == (ALICE, group)
    assert not (project / "inherits").stat().st_mode & stat.S_ISGID


async def test_files_of_other_accounts_are_nobody_inside_and_stay_closed(real: Rig) -> None:
    project = real.project("p")
    (project / "roots").write_text("secret")
    (project / "roots").chmod(0o600)
    workspace = await attach(real, path_spec(project))
    assert as_uid(FIRST, workspace, "stat -c %u roots").stdout == "65534\n"
    assert as_uid(FIRST, workspace, "cat roots").returncode != 0


async def test_the_mount_is_nosuid_nodev_shared_and_private_to_its_source(real: Rig) -> None:
    project = real.project("p")
    workspace = await attach(real, path_spec(project, read_only=True))
    (mount,) = [mount for mount in real.mounts() if mount.path == workspace]
    assert {"nosuid", "nodev", "ro"} <= mount.options
    assert mount.shared
    (project / "inner").mkdir()
    syscalls.mount("tmpfs", str(project / "inner"), "tmpfs")
    try:
        assert not any(mount.path.startswith(workspace + "/") for mount in real.mounts())
    finally:
        syscalls.unmount(str(project / "inner"))


Forgetting = Callable[[int, int, int], None]


def forgetting(flag: int) -> Forgetting:
    """A kernel that takes `flag` and does nothing about it."""
    return lambda tree, attributes, userns: syscalls.set_mount_attributes(tree, attributes & ~flag, userns)


@pytest.mark.parametrize(
    ("flag", "difference"),
    [
        (syscalls.MOUNT_ATTR_NOSUID, "nosuid"),
        (syscalls.MOUNT_ATTR_NODEV, "nodev"),
        (syscalls.MOUNT_ATTR_RDONLY, "ro"),
        (syscalls.MOUNT_ATTR_IDMAP, "owner"),
    ],
)
async def test_a_mount_that_differs_from_what_was_asked_is_not_attached(real: Rig, flag: int, difference: str) -> None:
    slot = real.slot("one")
    forgetful = real.restarted(forgetting(flag))
    await forgetful.prepare(slot, FIRST)
    await forgetful.open(JOB, TENANT, path_spec(real.project("p"), read_only=True))
    with pytest.raises(PerstackError) as error:
        await forgetful.attach(JOB, BOX, slot, FIRST)
    assert (error.value.reason, error.value.fields["differences"]) == ("workspace_unsafe", difference)
    assert not real.mounted(slot)


async def test_a_workspace_whose_owner_was_changed_after_open_is_not_attached(real: Rig) -> None:
    slot, project = real.slot("one"), real.project("p")
    await real.workspaces.prepare(slot, FIRST)
    await real.workspaces.open(JOB, TENANT, path_spec(project))
    os.chown(project, 0, 0)
    with pytest.raises(PerstackError) as error:
        await real.workspaces.attach(JOB, BOX, slot, FIRST)
    assert error.value.fields["differences"] == "owner"
    assert not real.mounted(slot)


async def test_an_expected_sandbox_is_attached_without_asking_the_helper(real: Rig) -> None:
    project = real.project("p")
    await real.workspaces.open(OTHER_JOB, TENANT, path_spec(project))
    await real.workspaces.prepare(real.slot("zero"), FIRST)
    kept = descriptors()
    for spec in (EPHEMERAL, named_spec("notes"), path_spec(project)):
        await attach(real, spec)
        await real.workspaces.detach(BOX, real.slot("one"))
        await real.workspaces.close(JOB)
    # each namespace that has to be made is kept by descriptor; the one is open's own check of the named workspace
    assert descriptors() - kept == 1


@pytest.mark.parametrize("uid", [0, 999])
async def test_nothing_is_ever_shown_as_a_privileged_uid(real: Rig, uid: int) -> None:
    with pytest.raises(PerstackError) as error:
        await attach(real, EPHEMERAL, uid)
    assert error.value.reason == "workspace_owner_refused"


async def test_a_slot_outside_the_runtime_directory_is_refused(real: Rig) -> None:
    for slot in (str(real.root / "elsewhere"), f"{real.settings.runtime}/../elsewhere"):
        with pytest.raises(PerstackError) as error:
            await real.workspaces.prepare(slot, FIRST)
        assert error.value.reason == "slot_invalid"


async def test_an_attach_whose_caller_left_is_undone(real: Rig) -> None:
    slot = real.slot("one")
    begun, go_on = threading.Event(), threading.Event()

    def slow(tree: int, attributes: int, userns: int) -> None:
        begun.set()
        assert go_on.wait(20)
        syscalls.set_mount_attributes(tree, attributes, userns)

    workspaces = real.restarted(slow)
    await workspaces.prepare(slot, FIRST)
    await workspaces.open(JOB, TENANT, EPHEMERAL)
    async with asyncio.TaskGroup() as tasks:
        attaching = tasks.create_task(workspaces.attach(JOB, BOX, slot, FIRST))
        assert await asyncio.to_thread(begun.wait, 20)
        attaching.cancel()
        await asyncio.sleep(0)  # the cancellation arrives while the call is still going on
        go_on.set()
    await workspaces.leftovers()  # the same lane, so what was asked before is over
    assert not real.mounted(slot)
