"""What a running sandbox can and cannot do with what it was given, and what is left of it."""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from perstackd.adapters.docker.engine import DockerSandboxes
from perstackd.domain.sandbox import SandboxRecord
from perstackd.ports.sandboxes import EndCause, SandboxDirectories
from tests.integration.docker.rig import DAEMON_ID, Rig, docker

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


@contextmanager
def mounted(directories: SandboxDirectories, uid: int) -> Iterator[Path]:
    """A workspace that is attached while the sandbox runs."""
    target = Path(directories.slot, "workspace")
    options = f"nosuid,nodev,mode=700,uid={uid},gid={uid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", target], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


async def started(rig: Rig, engine: DockerSandboxes) -> tuple[SandboxRecord, SandboxDirectories, str]:
    record = rig.record()
    directories = await asyncio.to_thread(rig.directories, record)
    return record, directories, await engine.start(record, rig.template(), directories)


def tried(container: str, script: str) -> str:
    """What a shell inside says; a refusal is text like any other."""
    return docker("exec", container, "sh", "-c", f"({script}) 2>&1 || true")


async def test_a_workspace_attached_later_is_seen_written_and_gone(rig: Rig, engine: DockerSandboxes) -> None:
    record, directories, container = await started(rig, engine)
    with mounted(directories, record.uid) as workspace:
        assert tried(container, "echo text > /workspace/file; cat /mnt/workspace/file") == "text"
        assert (workspace / "file").read_text() == "text\n"
        assert (workspace / "file").stat().st_uid == record.uid
        assert "not permitted" in tried(container, "chmod u+s /workspace/file")
    assert "No such file" in tried(container, "cat /workspace/file")


async def test_without_a_workspace_the_slot_takes_nothing(rig: Rig, engine: DockerSandboxes) -> None:
    _, directories, container = await started(rig, engine)
    for path in ("/mnt/x", "/mnt/workspace/x", "/gw/x", "/x", "/opt/x", "/etc/passwd.new"):
        assert "Read-only file system" in tried(container, f"touch {path}")
    assert [path.name for path in Path(directories.slot).rglob("*")] == ["workspace"]


async def test_the_sandbox_knows_itself_by_the_mounted_passwd(rig: Rig, engine: DockerSandboxes) -> None:
    record, _, container = await started(rig, engine)
    assert tried(container, "id -u; id -un; echo $HOME; cd; pwd; hostname").split() == [
        str(record.uid),
        "perstack",
        "/home/perstack",
        "/home/perstack",
        "sandbox",
    ]


async def test_a_filled_tmpfs_is_full_and_not_the_host(rig: Rig, engine: DockerSandboxes) -> None:
    _, _, container = await started(rig, engine)
    for path in ("/tmp", "/run", "/home/perstack", "/dev/shm"):
        assert "No space left" in tried(container, f"dd if=/dev/zero of={path}/flood bs=1M count=100; rm {path}/flood")


async def test_memory_beyond_the_limit_ends_the_sandbox_with_that_cause(rig: Rig, engine: DockerSandboxes) -> None:
    record = rig.record()
    directories = await asyncio.to_thread(rig.directories, record)
    command = ["python3", "-c", "b = [bytearray(1 << 24) for _ in range(99)]"]
    await engine.start(record, rig.template(), directories)
    await asyncio.to_thread(subprocess.run, ["docker", "exec", f"perstack-{record.id}", *command], check=False)
    docker("kill", f"perstack-{record.id}")
    end = await engine.end(record.id)
    assert (end.cause, end.exit_code) == (EndCause.OOM_KILLED, 137)


async def test_forks_beyond_the_limit_fail(rig: Rig, engine: DockerSandboxes) -> None:
    _, _, container = await started(rig, engine)
    program = "import os\nfor n in range(999):\n    if os.fork() == 0: os.kill(os.getpid(), 19)"
    assert "Resource temporarily unavailable" in tried(container, f"timeout 20 python3 -c '{program}'")


async def test_starting_and_removing_leaves_nothing_mounted(rig: Rig, engine: DockerSandboxes) -> None:
    before = Path("/proc/self/mountinfo").read_text().count("overlay")
    for _ in range(3):
        record, _, _ = await started(rig, engine)
        await engine.remove(record.id)
    assert docker("ps", "--all", "--quiet", "--filter", f"label=dev.perstack.daemon={DAEMON_ID}") == ""
    assert Path("/proc/self/mountinfo").read_text().count("overlay") <= before


async def test_a_sandbox_of_another_daemon_is_not_ours(rig: Rig, engine: DockerSandboxes) -> None:
    record, _, _ = await started(rig, engine)
    other = DockerSandboxes(type(rig.settings)(daemon_id=f"{DAEMON_ID}-other", seccomp_path=rig.settings.seccomp_path))
    async with other:
        assert await other.ours() == ()
    assert await engine.ours() == (record.id,)


async def test_the_posture_is_known_after_a_restart_of_the_daemon_too(rig: Rig, engine: DockerSandboxes) -> None:
    record, _, _ = await started(rig, engine)
    async with DockerSandboxes(rig.settings) as later:
        assert (await later.posture(record, rig.template())).failed == ()
