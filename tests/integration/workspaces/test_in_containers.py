"""Workspaces attached to running containers: hardened ones, started before there was anything to attach."""

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.userns import Owner
from perstackd.domain.workspace import WorkspaceSpec
from tests.integration.workspaces.rig import (
    ALICE,
    BOX,
    FIRST,
    JOB,
    OTHER_BOX,
    SECOND,
    SPARE,
    TENANT,
    Rig,
    named_spec,
    off_loop,
    path_spec,
)

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
IMAGE = "perstack/base:latest"
# as the engine adapter starts them, but for no-new-privileges: it would hide what nosuid does
HARDENED = ("--network=none", "--read-only", "--cap-drop=ALL", "--log-driver=none")


class Container:
    """A started container whose /mnt is the slot."""

    def __init__(self, container_id: str) -> None:
        self._id = container_id

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "exec", self._id, "sh", "-c", script], check=False, text=True, capture_output=True, timeout=30
        )

    def out(self, script: str) -> str:
        done = self.sh(script)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def container(slot: str, uid: int = FIRST, propagation: str = "rslave") -> Iterator[Container]:
    name = f"perstackd-workspace-test-{secrets.token_hex(4)}"
    mount = f"type=bind,src={slot},dst=/mnt,bind-propagation={propagation}"
    command = ["docker", "run", "--detach", f"--name={name}", f"--user={uid}:{uid}", f"--mount={mount}", *HARDENED]
    started = subprocess.run(
        [*command, "--entrypoint=sleep", IMAGE, "100"], check=False, text=True, capture_output=True, timeout=60
    )
    assert started.returncode == 0, started.stderr
    try:
        yield Container(name)
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True, timeout=60)


@pytest.fixture
async def slot(real: Rig) -> str:
    await real.workspaces.prepare(real.slot("one"), 200_001)
    return real.slot("one")


async def attach(real: Rig, slot: str, spec: WorkspaceSpec, uid: int = FIRST) -> None:
    await real.workspaces.open(JOB, TENANT, spec)
    await real.workspaces.attach(JOB, BOX, slot, uid)


async def test_a_workspace_attached_late_is_used_as_the_sandboxs_own_and_vanishes_on_detach(
    real: Rig, slot: str
) -> None:
    project = real.project("p")
    with container(slot) as box:
        assert box.out("ls -A /mnt/workspace") == ""
        assert box.sh("touch /mnt/workspace/early").returncode != 0
        await attach(real, slot, path_spec(project))
        assert box.out("cat /mnt/workspace/note; stat -c %u:%g /mnt/workspace/note") == f"hello{FIRST}:{FIRST}\n"
        box.out("echo new > /mnt/workspace/made; mkdir /mnt/workspace/dir")
        assert {(project / name).stat().st_uid for name in ("made", "dir")} == {ALICE}
        await real.workspaces.detach(BOX, slot)
        assert box.out("ls -A /mnt/workspace") == ""
        assert (project / "made").read_text() == "new\n"


async def test_a_read_only_workspace_cannot_be_changed_from_inside(real: Rig, slot: str) -> None:
    with container(slot) as box:
        await attach(real, slot, path_spec(real.project("p"), read_only=True))
        assert box.out("cat /mnt/workspace/note") == "hello"
        for attempt in ("echo x > note", "echo x > made", "rm note", "chmod 777 note"):
            assert "Read-only file system" in box.sh(f"cd /mnt/workspace && {attempt}").stderr


def attach_weakened(project: Path, slot: str, real: Rig) -> None:
    """The same idmapped mount as the product's, but with setuid files and devices honoured."""
    source = os.open(project, os.O_PATH)
    target = os.open(f"{slot}/workspace", os.O_PATH)
    namespace = real.namespaces.get(Owner.of(ALICE, ALICE), FIRST)
    tree = syscalls.clone_tree(source)
    syscalls.set_mount_attributes(tree, syscalls.MOUNT_ATTR_IDMAP, namespace)
    syscalls.attach_tree(tree, target)
    for descriptor in (source, target, namespace, tree):
        os.close(descriptor)


@pytest.mark.parametrize("weakened", [False, True], ids=["attached", "control"])
async def test_setuid_files_and_devices_have_no_effect_inside(real: Rig, slot: str, weakened: bool) -> None:
    project = real.project("p")
    os.mknod(project / "null", stat_mode := 0o020666, os.makedev(1, 3))
    (project / "null").chmod(stat_mode & 0o777)
    with container(slot) as box:
        if weakened:
            off_loop(lambda: attach_weakened(project, slot, real))
        else:
            await attach(real, slot, path_spec(project))
        box.out("cp /usr/bin/id /mnt/workspace/id")
        os.chown(project / "id", SPARE, SPARE)  # shown as root inside
        (project / "id").chmod(0o4755)
        assert box.out("stat -c %u /mnt/workspace/id") == "0\n"
        assert box.out("/mnt/workspace/id -u") == ("0\n" if weakened else f"{FIRST}\n")
        assert (box.sh("cat /mnt/workspace/null").returncode == 0) is weakened


async def test_files_of_one_sandbox_appear_as_the_other_ones_own(real: Rig, slot: str) -> None:
    second = real.slot("two")
    await real.workspaces.prepare(second, 200_001)
    for spec in (named_spec("notes"), WorkspaceSpec()):
        with container(slot) as one, container(second, SECOND) as two:
            await attach(real, slot, spec)
            await real.workspaces.attach(JOB, OTHER_BOX, second, SECOND)
            one.out("umask 077; echo from-one > /mnt/workspace/a")
            assert two.out("stat -c %u /mnt/workspace/a; cat /mnt/workspace/a") == f"{SECOND}\nfrom-one\n"
            two.out("echo from-two > /mnt/workspace/a")
            assert one.out("stat -c %u /mnt/workspace/a; cat /mnt/workspace/a") == f"{FIRST}\nfrom-two\n"
            await real.workspaces.detach(BOX, slot)
            await real.workspaces.detach(OTHER_BOX, second)
            await real.workspaces.close(JOB)


async def test_another_jobs_sandbox_sees_nothing_of_a_workspace(real: Rig, slot: str) -> None:
    other = real.slot("two")
    await real.workspaces.prepare(other, 200_001)
    with container(slot), container(other, SECOND) as stranger:
        await attach(real, slot, path_spec(real.project("p")))
        assert stranger.out("ls -A /mnt/workspace") == ""
        assert "/projects/" not in stranger.out("cat /proc/self/mountinfo")


async def test_what_the_host_mounts_below_a_workspace_later_stays_outside(real: Rig, slot: str) -> None:
    project = real.project("p")
    (project / "inner").mkdir()
    with container(slot) as box:
        await attach(real, slot, path_spec(project))
        syscalls.mount("tmpfs", str(project / "inner"), "tmpfs")
        try:
            (project / "inner" / "of-the-host").touch()
            assert box.out("ls -A /mnt/workspace/inner") == ""
        finally:
            syscalls.unmount(str(project / "inner"))


@pytest.mark.parametrize(("propagation", "seen"), [("rslave", True), ("rprivate", False)])
async def test_a_marker_tells_whether_a_container_sees_late_mounts(
    real: Rig, slot: str, propagation: str, seen: bool
) -> None:
    with container(slot, propagation=propagation) as box:
        token = await real.workspaces.prove(slot, FIRST)
        assert (box.sh("cat /mnt/workspace/marker").stdout == token) is seen
        await real.workspaces.detach(BOX, slot)
        assert box.sh("cat /mnt/workspace/marker").returncode != 0


async def test_a_restarted_daemon_detaches_what_its_predecessor_attached(real: Rig, slot: str) -> None:
    with container(slot) as box:
        await attach(real, slot, path_spec(real.project("p")))
        after = real.restarted()
        assert box.out("cat /mnt/workspace/note") == "hello"
        await after.detach(BOX, slot)
        assert box.out("ls -A /mnt/workspace") == ""


async def test_a_container_started_before_a_daemon_restart_still_gets_a_workspace(real: Rig, slot: str) -> None:
    with container(slot) as box:
        await real.workspaces.open(JOB, TENANT, path_spec(real.project("p")))
        after = real.restarted()
        await after.open(JOB, TENANT, path_spec(real.projects / "p"))
        await after.attach(JOB, BOX, slot, FIRST)
        assert box.out("cat /mnt/workspace/note") == "hello"
