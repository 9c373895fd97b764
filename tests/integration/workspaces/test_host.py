"""Real mounts without containers: what is refused, what is checked, what stays behind."""

import asyncio
import dataclasses
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.host import HostWorkspaces
from perstackd.adapters.workspaces.hostread import read_beneath
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import TenantId
from perstackd.domain.workspace import WorkspaceSpec
from tests.integration.workspaces.rig import (
    ALICE,
    BOX,
    FIRST,
    JOB,
    MANAGED,
    OTHER_BOX,
    OTHER_JOB,
    SECOND,
    SPARE,
    TENANT,
    Rig,
    as_uid,
    descriptors,
    named_spec,
    path_spec,
    rig,
)

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
EPHEMERAL = WorkspaceSpec()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made


async def attach(real: Rig, spec: WorkspaceSpec, uid: int = FIRST) -> str:
    """The path at which the workspace now is."""
    slot = real.slot("one")
    await real.workspaces.prepare(slot, FIRST)
    await real.workspaces.open(JOB, TENANT, spec)
    await real.workspaces.attach(JOB, BOX, slot, uid)
    return f"{slot}/workspace"


async def refused(real: Rig, spec: WorkspaceSpec, tenant: TenantId = TENANT) -> PerstackError:
    with pytest.raises(PerstackError) as error:
        await real.workspaces.open(JOB, tenant, spec)
    return error.value


# --- opening ----------------------------------------------------------------------------------------------------------
async def test_a_link_anywhere_in_the_path_is_refused(real: Rig) -> None:
    project = real.project("p")
    (project / "inner").mkdir()
    os.chown(project / "inner", ALICE, ALICE)
    (real.projects / "link").symlink_to(project)
    for path in (real.projects / "link", real.projects / "link" / "inner"):
        error = await refused(real, path_spec(path))
        assert (error.kind, error.reason) == (Kind.DENIED, "workspace_symlink_refused")


async def test_a_file_is_not_a_workspace(real: Rig) -> None:
    error = await refused(real, path_spec(real.project("p") / "note"))
    assert error.reason == "workspace_not_found"
    assert "not a directory" in error.message


async def test_the_refusal_of_a_path_names_the_roots_and_the_key_to_change(real: Rig) -> None:
    error = await refused(real, path_spec("/projects-elsewhere"))
    assert str(real.projects) in error.message
    assert "`workspace_roots` in perstackd.toml" in error.message


async def test_a_directory_beside_a_root_with_the_same_beginning_is_outside(real: Rig) -> None:
    beside = real.root / "projects-of-bob"
    beside.mkdir()
    assert (await refused(real, path_spec(beside))).reason == "workspace_outside_roots"


async def test_the_daemons_own_directories_are_outside_whatever_the_roots_are(real: Rig) -> None:
    await attach(real, named_spec("notes"))
    await real.workspaces.open(OTHER_JOB, TENANT, EPHEMERAL)
    everything = HostWorkspaces(dataclasses.replace(real.settings, roots=("/",)), real.namespaces)
    others = TenantId("acme")
    try:
        for path in (
            f"{real.settings.state}/workspaces/default/notes",
            f"//{real.settings.state}//workspaces/default/notes/",
            f"{real.settings.runtime}/ephemeral/{OTHER_JOB}",
            real.settings.state,
        ):
            with pytest.raises(PerstackError) as error:
                await everything.open(JOB, others, path_spec(path))
            assert error.value.reason == "workspace_outside_roots"
        await everything.open(JOB, others, path_spec(f"/{real.project('p')}/"))
    finally:
        await asyncio.to_thread(everything.shutdown)


async def test_a_tenant_that_is_no_directory_name_is_refused(real: Rig) -> None:
    assert (await refused(real, named_spec("notes"), TenantId("../.."))).reason == "tenant_invalid"


async def test_a_file_system_that_refuses_idmaps_is_named_with_the_remedy(real: Rig) -> None:
    ramfs = real.projects / "ram"
    ramfs.mkdir()
    syscalls.mount("none", str(ramfs), "ramfs")
    try:
        os.chown(ramfs, ALICE, ALICE)
        error = await refused(real, path_spec(ramfs))
    finally:
        syscalls.unmount(str(ramfs))
    assert (error.kind, error.reason) == (Kind.PRECONDITION, "workspace_unsupported")
    assert error.fields["file_system"] == "ramfs"
    assert "ext4" in error.message


async def test_a_path_swapped_for_a_link_after_open_does_not_matter(real: Rig) -> None:
    project = real.project("p")
    secret = real.project("secret")
    (secret / "note").write_text("other")
    slot = real.slot("one")
    await real.workspaces.prepare(slot, FIRST)
    await real.workspaces.open(JOB, TENANT, path_spec(project))
    project.rename(real.projects / "moved")
    project.symlink_to(secret)
    await real.workspaces.attach(JOB, BOX, slot, FIRST)
    assert as_uid(FIRST, f"{slot}/workspace", "cat note").stdout == "hello"


# --- attaching --------------------------------------------------------------------------------------------------------
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


# --- ephemeral --------------------------------------------------------------------------------------------------------
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


# --- named ------------------------------------------------------------------------------------------------------------
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


# --- another process --------------------------------------------------------------------------------------------------
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
