"""Real mounts without containers: ephemeral and named workspaces, and what stays behind."""

import asyncio
import errno
import os
import stat
from pathlib import Path

import pytest

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.hostread import read_beneath
from perstackd.domain.errors import PerstackError
from tests.integration.workspaces.attached import EPHEMERAL, attach
from tests.integration.workspaces.rig import (
    BOX,
    FIRST,
    JOB,
    MANAGED,
    OTHER_BOX,
    OTHER_JOB,
    SECOND,
    TENANT,
    Rig,
    as_uid,
    descriptors,
    named_spec,
    path_spec,
    rig,
)

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


# --- ephemeral ------------------------------------------------------------------------------------------------------
async def test_an_ephemeral_workspace_is_capped_in_bytes_and_files(real: Rig) -> None:
    workspace = await attach(real, EPHEMERAL)
    assert "No space left" in as_uid(FIRST, workspace, "head -c 2000000 /dev/zero > big").stderr
    many = as_uid(FIRST, workspace, "rm big; for i in $(seq 100); do : > f$i || exit 1; done")
    assert many.returncode != 0


def without_tmpfs_idmaps(tree: int, attributes: int, userns: int) -> None:
    """Linux before 6.3."""
    if attributes & syscalls.MOUNT_ATTR_IDMAP:
        raise OSError(errno.EINVAL, "Invalid argument")
    syscalls.set_mount_attributes(tree, attributes, userns)


async def test_where_a_tmpfs_cannot_be_idmapped_one_sandbox_gets_it_and_a_second_is_told_why(real: Rig) -> None:
    workspaces = real.restarted(without_tmpfs_idmaps)
    await workspaces.open(JOB, TENANT, EPHEMERAL)
    for name in ("one", "two"):
        await workspaces.prepare(real.slot(name), FIRST)
    await workspaces.attach(JOB, BOX, real.slot("one"), FIRST)
    assert as_uid(FIRST, f"{real.slot('one')}/workspace", "echo x > made").returncode == 0
    with pytest.raises(PerstackError) as error:
        await workspaces.attach(JOB, OTHER_BOX, real.slot("two"), SECOND)
    assert error.value.reason == "workspace_unsupported"
    assert "6.3" in error.value.message


async def test_closing_a_job_takes_its_workspace_out_of_every_slot(real: Rig) -> None:
    await attach(real, EPHEMERAL)
    await real.workspaces.close(JOB)
    assert [mount.path for mount in real.mounts()] == [real.settings.runtime]


# --- named ----------------------------------------------------------------------------------------------------------
async def test_named_workspaces_lie_below_a_directory_that_only_root_may_enter(real: Rig) -> None:
    await attach(real, named_spec("notes"))
    top = Path(real.settings.state, "workspaces")
    assert stat.S_IMODE(top.stat().st_mode) == 0o700
    assert (top / "default" / "notes").stat().st_uid == MANAGED
    assert as_uid(MANAGED, "/", f"ls {top}/default/notes").returncode != 0


async def test_closing_clears_setuid_bits_and_devices_of_a_named_workspace(real: Rig) -> None:
    workspace = await attach(real, named_spec("notes"))
    assert as_uid(FIRST, workspace, "mkdir -p a/b && : > a/b/tool && chmod 6755 a/b/tool").returncode == 0
    notes = Path(real.settings.state, "workspaces/default/notes")
    assert (notes / "a/b/tool").stat().st_mode & stat.S_ISUID
    os.mknod(notes / "a/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    await real.workspaces.detach(BOX, real.slot("one"))
    await real.workspaces.close(JOB)
    assert stat.S_IMODE((notes / "a/b/tool").stat().st_mode) == 0o755
    assert not (notes / "a/null").exists()


async def test_the_host_reads_a_file_of_a_named_workspace_without_following_links(real: Rig) -> None:
    workspace = await attach(real, named_spec("notes"))
    assert as_uid(FIRST, workspace, "echo log > fitness-log.md; ln -s /etc/shadow trap").returncode == 0
    notes = f"{real.settings.state}/workspaces/default/notes"
    assert await asyncio.to_thread(read_beneath, notes, "fitness-log.md", 1000) == b"log\n"
    with pytest.raises(PerstackError) as error:
        await asyncio.to_thread(read_beneath, notes, "trap", 1000)
    assert error.value.reason == "workspace_file_refused"


# --- another process ------------------------------------------------------------------------------------------------
async def test_the_next_process_takes_over_what_an_earlier_one_left(real: Rig) -> None:
    workspace = await attach(real, EPHEMERAL)
    assert as_uid(FIRST, workspace, "echo kept > a").returncode == 0
    after = real.restarted()
    assert {mount.path for mount in await after.leftovers()} == {
        workspace,
        f"{real.settings.runtime}/ephemeral/{JOB}",
    }
    await after.open(JOB, TENANT, EPHEMERAL)
    await after.prepare(real.slot("two"), FIRST)
    await after.attach(JOB, OTHER_BOX, real.slot("two"), SECOND)
    assert as_uid(SECOND, f"{real.slot('two')}/workspace", "cat a").stdout == "kept\n"
    await after.detach(BOX, real.slot("one"))
    await after.close(JOB)
    assert await after.leftovers() == ()


async def test_an_ephemeral_workspace_of_an_earlier_process_is_closed_without_being_opened(real: Rig) -> None:
    await attach(real, EPHEMERAL)
    after = real.restarted()
    await after.detach(BOX, real.slot("one"))
    await after.close(JOB)
    assert await after.leftovers() == ()
    assert os.listdir(f"{real.settings.runtime}/ephemeral") == []


def test_preparing_the_root_twice_makes_one_mount_also_below_a_shared_one(tmp_path: Path) -> None:
    syscalls.mount("tmpfs", str(tmp_path), "tmpfs")
    try:
        syscalls.mount("", str(tmp_path), flags=syscalls.MS_SHARED)
        with rig(tmp_path) as real:
            real.workspaces.prepare_root()
            assert [mount.path for mount in real.mounts()] == [real.settings.runtime, str(tmp_path)]
            asyncio.run(real.workspaces.open(OTHER_JOB, TENANT, EPHEMERAL))
            assert len(real.mounts()) == 3
            asyncio.run(real.workspaces.close(OTHER_JOB))
        assert len(real.mounts()) == 1
    finally:
        syscalls.unmount(str(tmp_path))


async def test_two_hundred_jobs_leave_no_mount_and_no_descriptor(real: Rig) -> None:
    slot, project = real.slot("one"), real.project("p")
    await real.workspaces.prepare(slot, FIRST)
    specs = (path_spec(project), EPHEMERAL, named_spec("notes"))

    async def job(number: int) -> None:
        await real.workspaces.open(JOB, TENANT, specs[number % 3])
        await real.workspaces.attach(JOB, BOX, slot, FIRST)
        await real.workspaces.detach(BOX, slot)
        await real.workspaces.prove(slot, FIRST)
        await real.workspaces.detach(BOX, slot)
        await real.workspaces.close(JOB)

    for number in range(3):
        await job(number)  # threads, the namespaces' cache
    before = descriptors(), len(real.mounts())
    for number in range(200):
        await job(number)
    assert (descriptors(), len(real.mounts())) == before
    assert os.listdir(f"{real.settings.state}/markers") == []


async def test_many_jobs_at_once_keep_to_themselves(real: Rig) -> None:
    jobs = [type(JOB)(f"01JAZ00000000000000000{number:04d}") for number in range(20)]

    async def run(number: int) -> None:
        slot = real.slot(f"s{number}")
        await real.workspaces.prepare(slot, FIRST)
        await real.workspaces.open(jobs[number], TENANT, EPHEMERAL)
        await real.workspaces.attach(jobs[number], BOX, slot, FIRST + number)

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(run(number))
    for number in range(20):
        await asyncio.to_thread(as_uid, FIRST + number, f"{real.slot(f's{number}')}/workspace", f": > only-{number}")
    for number in range(20):
        assert os.listdir(f"{real.slot(f's{number}')}/workspace") == [f"only-{number}"]
        await real.workspaces.close(jobs[number])
    assert await real.workspaces.leftovers() == ()


def test_the_runtime_directory_is_left_as_it_was_found(tmp_path: Path) -> None:
    with rig(tmp_path) as real:
        asyncio.run(real.workspaces.open(JOB, TENANT, EPHEMERAL))
        asyncio.run(real.workspaces.close(JOB))
        asyncio.run(real.workspaces.open(OTHER_JOB, TENANT, named_spec("notes")))
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert os.listdir(tmp_path / "run/ephemeral") == []
