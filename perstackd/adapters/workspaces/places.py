"""Where workspaces are: host paths below a root, named ones of a tenant, ephemeral ones of a job, the marker.

Each is found or made and handed out as a `Source`, a descriptor: from then on no path is looked up again.
"""

import errno
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.root import RuntimeRoot, unmount_all
from perstackd.adapters.workspaces.userns import MIN_OWNER, Owner
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import JobId, TenantId, is_id
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec

MARKER: Final = "marker"
T = TypeVar("T")
_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Source:
    """A held directory. `name` is for messages. Whoever has it closes `descriptor`."""

    descriptor: int
    owner: Owner
    name: str
    kind: WorkspaceKind


class Places:
    """Finds and makes. Blocking."""

    def __init__(self, state: str, runtime: RuntimeRoot, roots: tuple[str, ...], managed_uid: int, tmpfs_options: str) -> None:
        self._state = Path(state)
        self._runtime = runtime
        self._roots = tuple(root.rstrip("/") or "/" for root in roots)
        self._managed = Owner(managed_uid, managed_uid)
        self._tmpfs_options = tmpfs_options

    def prepare(self) -> None:
        """Make the directories that only root may enter, and forget markers of an earlier process. Idempotent."""
        for directory in (self._state / "workspaces", self._state / "markers"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        for marker in (self._state / "markers").iterdir():
            self.remove_marker(marker)

    def find(self, job_id: JobId, tenant: TenantId, spec: WorkspaceSpec) -> Source:
        """Find or make what `spec` asks for.

        Raises:
            PerstackError: see `ports.workspaces.Workspaces.open`.
        """
        match spec.kind:
            case WorkspaceKind.PATH:
                return self._path(spec.value)
            case WorkspaceKind.NAMED:
                return self._named(tenant, spec.value)
            case WorkspaceKind.EPHEMERAL:
                return self._ephemeral(job_id)

    def remove_ephemeral(self, job_id: JobId) -> None:
        """Unmount and remove the job's ephemeral workspace. Idempotent, also for jobs that never had one."""
        directory = self._runtime.ephemeral / _checked_job(job_id)
        unmount_all(str(directory))
        if directory.exists():
            directory.rmdir()

    def make_marker(self) -> tuple[Source, Path, str]:
        """A directory with a file `marker` of random content, on the file system of managed workspaces."""
        token = secrets.token_hex(16)
        directory = self._state / "markers" / secrets.token_hex(8)
        directory.mkdir(mode=0o700)
        (directory / MARKER).write_text(token)
        for path in (directory / MARKER, directory):
            os.chown(path, self._managed.uid, self._managed.gid)
        return _hold(syscalls.AT_FDCWD, str(directory), syscalls.WITHOUT_LINKS, str(directory)), directory, token

    @staticmethod
    def remove_marker(directory: Path) -> None:
        """Idempotent."""
        (directory / MARKER).unlink(missing_ok=True)
        if directory.exists():
            directory.rmdir()

    def _path(self, path: str) -> Source:
        root = self._root_of(path)
        outer = _opened(root, lambda: _directory(syscalls.AT_FDCWD, root, syscalls.WITHOUT_LINKS))
        try:
            inner = os.path.relpath(path, root)
            return _opened(path, lambda: _hold(outer, inner, syscalls.INSIDE, path))
        finally:
            os.close(outer)

    def _root_of(self, path: str) -> str:
        fitting = [root for root in self._roots if path == root or path.startswith(root.rstrip("/") + "/")]
        if fitting:
            return max(fitting, key=len)
        allowed = f"it allows {', '.join(self._roots)}" if self._roots else "no root is configured"
        raise PerstackError(
            Kind.DENIED,
            "workspace_outside_roots",
            f"the workspace {path} is not below a root that this daemon allows ({allowed}); add its directory to "
            "`workspace_roots` in perstackd.toml, or use a named or the ephemeral workspace",
            fields={"path": path},
        )

    def _named(self, tenant: TenantId, name: str) -> Source:
        path = managed_directory(str(self._state), tenant, name)
        outer = _directory(syscalls.AT_FDCWD, str(self._state / "workspaces"), syscalls.WITHOUT_LINKS)
        try:
            for part in (tenant, name):
                _make(outer, part)
                inner = _directory(outer, part, syscalls.INSIDE)
                os.close(outer)
                outer = inner
            # new, or left by a process that died before it got here: only root can have made anything at this level
            if os.fstat(outer).st_uid == 0:
                os.chown(f"/proc/self/fd/{outer}", self._managed.uid, self._managed.gid)
            return _hold(outer, ".", syscalls.INSIDE, path)
        finally:
            os.close(outer)

    def _ephemeral(self, job_id: JobId) -> Source:
        outer = _directory(syscalls.AT_FDCWD, str(self._runtime.ephemeral), syscalls.WITHOUT_LINKS)
        try:
            _make(outer, _checked_job(job_id))
            path = str(self._runtime.ephemeral / job_id)
            if not _is_mount_point(outer, job_id):  # one of an earlier process is taken over with its content
                syscalls.mount("tmpfs", path, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, self._tmpfs_options)
            return _hold(outer, job_id, syscalls.INSIDE, f"ephemeral workspace of job {job_id}")
        finally:
            os.close(outer)


def managed_directory(state: str, tenant: TenantId, name: str) -> str:
    """The host path of a named workspace.

    Raises:
        PerstackError: INVALID `tenant_invalid` for a tenant that cannot be a directory's name.
    """
    if not _TENANT.fullmatch(tenant):
        raise PerstackError(Kind.INVALID, "tenant_invalid", f"the tenant {tenant[:80]!r} cannot be a directory's name")
    return f"{state.rstrip('/')}/workspaces/{tenant}/{name}"


def _checked_job(job_id: JobId) -> str:
    if not is_id(job_id):
        raise PerstackError(Kind.INVALID, "job_invalid", f"{job_id[:80]!r} is not a job id")
    return job_id


def _make(outer: int, name: str) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=outer)
    except FileExistsError:
        return


def _directory(outer: int, path: str, resolve: int) -> int:
    return syscalls.openat2(outer, path, syscalls.DIRECTORY, resolve)


def _is_mount_point(outer: int, name: str) -> bool:
    try:
        os.close(_directory(outer, name, syscalls.INSIDE | syscalls.RESOLVE_NO_XDEV))
    except OSError as error:
        if error.errno == errno.EXDEV:
            return True
        raise
    return False


def _hold(outer: int, path: str, resolve: int, name: str) -> Source:
    descriptor = _directory(outer, path, resolve)
    found = os.fstat(descriptor)
    if found.st_uid < MIN_OWNER:
        os.close(descriptor)
        raise PerstackError(
            Kind.DENIED,
            "workspace_owner_refused",
            f"the workspace {name} belongs to uid {found.st_uid}; a file made inside would be that account's on the host, "
            f"so directories of uids below {MIN_OWNER} are never attached. Use a named workspace, or a directory of a user",
            fields={"path": name, "uid": str(found.st_uid)},
        )
    # a privileged group is not mapped either; files of the sandbox then get the group with the owner's number
    gid = found.st_gid if found.st_gid >= MIN_OWNER else found.st_uid
    return Source(descriptor, Owner(found.st_uid, gid), name)


def _opened(path: str, opening: Callable[[], T]) -> T:
    try:
        return opening()
    except OSError as error:
        raise _open_error(path, error) from error


def _open_error(path: str, error: OSError) -> PerstackError:
    match error.errno:
        case errno.ENOENT:
            return PerstackError(
                Kind.NOT_FOUND, "workspace_not_found", f"the workspace {path} does not exist on the daemon's host; make it first"
            )
        case errno.ENOTDIR:
            return PerstackError(Kind.NOT_FOUND, "workspace_not_found", f"the workspace {path} is not a directory")
        case errno.ELOOP | errno.EXDEV:
            return PerstackError(
                Kind.DENIED,
                "workspace_symlink_refused",
                f"the path {path} goes through a symbolic link; give the real path (realpath prints it)",
            )
        case errno.ENOSYS:
            return PerstackError(Kind.PRECONDITION, "workspace_unsupported", "workspaces need Linux 5.12 or newer")
        case _:
            return PerstackError(Kind.PRECONDITION, "workspace_unusable", f"the workspace {path} cannot be opened: {error}")
