"""Real workspaces below a directory of the test, and the view of a sandbox's uid without a container."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.host import HostWorkspaces
from perstackd.adapters.workspaces.managed import HostManagedWorkspaces
from perstackd.adapters.workspaces.mountinfo import MountPoint, mounts_at_or_below
from perstackd.adapters.workspaces.root import RuntimeRoot
from perstackd.adapters.workspaces.settings import HostSettings
from perstackd.adapters.workspaces.userns import UserNamespaces
from perstackd.domain.ids import JobId, SandboxId, TenantId
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec

ALICE = 1000
MANAGED = 199_998
SPARE = 199_999
FIRST, SECOND = 200_001, 200_002
TENANT = TenantId("default")
JOB = JobId("01JAZ0000000000000000000J1")
OTHER_JOB = JobId("01JAZ0000000000000000000J2")
BOX = SandboxId("01JAZ0000000000000000000S1")
OTHER_BOX = SandboxId("01JAZ0000000000000000000S2")


SetAttributes = Callable[[int, int, int], None]
T = TypeVar("T")


def off_loop(work: Callable[[], T]) -> T:
    """Do blocking work of ours from an async test, where the detector would refuse it."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result(20)


class Rig:
    """One daemon's workspaces. `workspaces` may be replaced by those of a second process with `restarted`."""

    def __init__(self, root: Path, named_bytes: int = 0, named_inodes: int = 1000, kept_mounted: int = 0) -> None:
        self.root = root
        self.projects = root / "projects"
        self.projects.mkdir()
        self.settings = HostSettings(
            state=str(root / "state"),
            runtime=str(root / "run"),
            roots=(str(self.projects),),
            managed_uid=MANAGED,
            ephemeral_bytes=1 << 20,
            ephemeral_inodes=64,
            named_bytes=named_bytes,
            named_inodes=named_inodes,
            kept_mounted=kept_mounted,
        )
        self.namespaces = UserNamespaces(SPARE)
        self.namespaces.start()
        self.workspaces = HostWorkspaces(self.settings, self.namespaces)
        self.workspaces.prepare_root()

    def restarted(self, set_attributes: SetAttributes = syscalls.set_mount_attributes) -> HostWorkspaces:
        """What a daemon has that starts after this one ended without a clean-up."""
        off_loop(self.workspaces.shutdown)
        self.workspaces = HostWorkspaces(self.settings, self.namespaces, set_attributes)
        off_loop(self.workspaces.prepare_root)
        return self.workspaces

    def close(self) -> None:
        self.workspaces.shutdown()
        self.workspaces.cleanup_root()
        RuntimeRoot(self.settings.runtime).cleanup()  # what is kept for a next process has none here
        self.namespaces.close()

    def slot(self, name: str) -> str:
        return f"{self.settings.runtime}/sandboxes/{name}/slot"

    def project(self, name: str, owner: int = ALICE) -> Path:
        """A host directory with a private file `note`."""
        directory = self.projects / name
        directory.mkdir(mode=0o700)
        (directory / "note").write_text("hello")
        (directory / "note").chmod(0o600)
        for path in (directory / "note", directory):
            os.chown(path, owner, owner)
        return directory

    def mounts(self) -> tuple[MountPoint, ...]:
        return off_loop(lambda: mounts_at_or_below(str(self.root)))

    def mounted(self, slot: str) -> bool:
        return any(mount.path == f"{slot}/workspace" for mount in self.mounts())


@contextlib.contextmanager
def rig(root: Path) -> Iterator[Rig]:
    made = Rig(root)
    try:
        yield made
    finally:
        made.close()


def path_spec(path: Path | str, *, read_only: bool = False) -> WorkspaceSpec:
    return WorkspaceSpec(WorkspaceKind.PATH, str(path), read_only)


def named_spec(name: str) -> WorkspaceSpec:
    return WorkspaceSpec(WorkspaceKind.NAMED, name)


def as_uid(uid: int, directory: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in `directory` as `uid` with no other group and no capability."""
    return subprocess.run(
        ["sh", "-c", script],
        check=False,
        cwd=directory,
        user=uid,
        group=uid,
        extra_groups=(),
        text=True,
        capture_output=True,
        timeout=20,
    )


def descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


class ManagedRig(Rig):
    """With the side that people see."""

    @property
    def managed(self) -> HostManagedWorkspaces:
        return self.workspaces.managed


@contextlib.contextmanager
def managed_rig(
    root: Path, *, named_bytes: int = 0, named_inodes: int = 1000, kept_mounted: int = 0
) -> Iterator[ManagedRig]:
    made = ManagedRig(root, named_bytes, named_inodes, kept_mounted)
    try:
        yield made
    finally:
        made.close()


def loop_images(root: Path) -> list[str]:
    """The files below `root` that a loop device has."""
    backing = [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [path for path in backing if path.startswith(str(root))]
