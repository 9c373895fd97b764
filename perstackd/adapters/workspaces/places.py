"""Where workspaces are: host paths below a root, named ones of a tenant, ephemeral ones of a job, the marker.

Each is found or made and handed out as a `Source`, a descriptor: from then on no path is looked up again.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.named import Held, NamedStore, check_tenant
from perstackd.adapters.workspaces.root import RuntimeRoot, unmount_all
from perstackd.adapters.workspaces.settings import HostSettings
from perstackd.adapters.workspaces.userns import MIN_OWNER, Owner
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import JobId, TenantId, is_id
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec, named

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """A held directory. `name` is for messages. Whoever has it gives it back by `Places.let_go`."""

    descriptor: int
    owner: Owner
    name: str
    kind: WorkspaceKind
    held: Held | None = None


class Places:
    """Finds and makes. Blocking."""

    def __init__(self, settings: HostSettings, runtime: RuntimeRoot, store: NamedStore) -> None:
        self._settings = settings
        self._runtime = runtime
        self._store = store
        self._roots = tuple(root.rstrip("/") or "/" for root in settings.roots)

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

    def let_go(self, source: Source) -> None:
        """Close what was found; a workspace with a size is unmounted when nobody else has it."""
        if source.held is not None:
            self._store.let_go(source.held)
        else:
            os.close(source.descriptor)

    def remove_ephemeral(self, job_id: JobId) -> None:
        """Unmount and remove the job's ephemeral workspace. Idempotent, also for jobs that never had one."""
        directory = self._runtime.ephemeral / _checked_job(job_id)
        unmount_all(str(directory))
        if directory.exists():
            directory.rmdir()

    def keep_ephemeral(self, jobs: frozenset[JobId]) -> frozenset[JobId]:
        """Remove the ephemeral workspaces of other jobs; the jobs whose own is still mounted."""
        found = [JobId(path.name) for path in self._runtime.ephemeral.iterdir() if is_id(path.name)]
        for job_id in found:
            if job_id not in jobs:
                self.remove_ephemeral(job_id)
        self._store.unmount_unheld()
        mounted = {mount.path for mount in self._runtime.leftovers()}
        return frozenset(job_id for job_id in jobs if str(self._runtime.ephemeral / job_id) in mounted)

    def _path(self, given: str) -> Source:
        path = os.path.normpath("/" + given.strip("/"))  # no .. in it; it would keep two leading slashes
        root = self._root_of(path)
        outer = _opened(root, lambda: _directory(syscalls.AT_FDCWD, root, syscalls.WITHOUT_LINKS))
        try:
            inner = os.path.relpath(path, root)
            return _opened(path, lambda: _held(outer, inner, WorkspaceKind.PATH, path))
        finally:
            os.close(outer)

    def _root_of(self, path: str) -> str:
        ours = any(_is_below(path, own) for own in (self._settings.state, self._settings.runtime))
        fitting = [root for root in self._roots if _is_below(path, root)]
        if fitting and not ours:  # whatever the roots: another tenant's workspace is not a host directory
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
        held = self._store.hold(tenant, name, make=True)
        try:
            shown = f"{tenant}/{name}"
            return Source(held.data, _owner(os.fstat(held.data), shown), shown, WorkspaceKind.NAMED, held)
        except BaseException:
            self._store.let_go(held)
            raise

    def _ephemeral(self, job_id: JobId) -> Source:
        outer = _directory(syscalls.AT_FDCWD, str(self._runtime.ephemeral), syscalls.WITHOUT_LINKS)
        try:
            _make(outer, _checked_job(job_id))
            path = str(self._runtime.ephemeral / job_id)
            if not _is_mount_point(outer, job_id):  # one of an earlier process is taken over with its content
                syscalls.mount(
                    "tmpfs", path, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, self._settings.tmpfs_options
                )
            return _held(outer, job_id, WorkspaceKind.EPHEMERAL, path)
        finally:
            os.close(outer)


def managed_directory(state: str, tenant: TenantId, name: str) -> str:
    """The host path of a named workspace without a size.

    Raises:
        PerstackError: INVALID `tenant_invalid` or `workspace_invalid` when one cannot be a directory's name.
    """
    check_tenant(tenant)
    named(name)
    return f"{state.rstrip('/')}/workspaces/{tenant}/{name}"


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


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


def hold(path: str) -> Source:
    """Hold a directory of our own making."""
    return _held(syscalls.AT_FDCWD, path, WorkspaceKind.NAMED, path)


def _held(outer: int, path: str, kind: WorkspaceKind, name: str) -> Source:
    resolve = syscalls.WITHOUT_LINKS if outer == syscalls.AT_FDCWD else syscalls.INSIDE
    descriptor = _directory(outer, path, resolve)
    try:
        return Source(descriptor, _owner(os.fstat(descriptor), name), name, kind)
    except PerstackError:
        os.close(descriptor)
        raise


def _owner(found: os.stat_result, name: str) -> Owner:
    if found.st_uid < MIN_OWNER:
        raise PerstackError(
            Kind.DENIED,
            "workspace_owner_refused",
            f"the workspace {name} belongs to uid {found.st_uid}; a file made inside would be that account's on "
            f"the host, so directories of uids below {MIN_OWNER} are never attached. Use a named workspace, or a "
            "directory of a user",
            fields={"path": name, "uid": str(found.st_uid)},
        )
    return Owner.of(found.st_uid, found.st_gid)


def _opened(path: str, opening: Callable[[], T]) -> T:
    try:
        return opening()
    except OSError as error:
        raise _open_error(path, error) from error


def _open_error(path: str, error: OSError) -> PerstackError:
    match error.errno:
        case errno.ENOENT:
            return PerstackError(
                Kind.NOT_FOUND,
                "workspace_not_found",
                f"the workspace {path} does not exist on the daemon's host; make it first",
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
            return PerstackError(
                Kind.PRECONDITION, "workspace_unusable", f"the workspace {path} cannot be opened: {error}"
            )
