"""The named workspaces on this host's disk: made, held, looked at, removed.

`STATE/workspaces/TENANT/NAME` is either the workspace itself, owned by the managed uid, or, for one with a size, a
directory of root with its image, which is mounted below the runtime directory while somebody holds it. Above: `Places`
for jobs, `ManagedWorkspaces` for people. Blocking, and safe from several threads.
"""

import contextlib
import errno
import os
import re
import secrets
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.clearing import clear
from perstackd.adapters.workspaces.image import (
    DATA,
    IMAGE,
    Usage,
    make_image,
    mount_image,
    quota_of,
    room_on_disk,
    usage_of,
)
from perstackd.adapters.workspaces.mountinfo import mounts_at_or_below
from perstackd.adapters.workspaces.root import RuntimeRoot, unmount_all
from perstackd.adapters.workspaces.settings import HostSettings
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import TenantId
from perstackd.domain.workspace import Quota, named

_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HIDDEN: Final = "."  # no workspace's name begins so
STAGING: Final = ".put-"
_GONE: Final = ".gone-"
_USED: Final = ".used-"

_Key: TypeAlias = tuple[TenantId, str]


@dataclass(frozen=True, slots=True)
class Held:
    """A workspace in somebody's hands. `data` is its directory, `outer` the one around it, which no sandbox sees and
    which is on the same file system. Whoever has it gives it to `NamedStore.let_go`, once.
    """

    tenant: TenantId
    name: str
    data: int
    outer: int
    quota: Quota | None


class NamedStore:
    """Knows what is mounted and how many hold it. The last `settings.kept_mounted` that were let go stay so: a mount
    takes longer than the rest of a job's beginning, and who works in a workspace comes back.
    """

    def __init__(self, settings: HostSettings, runtime: RuntimeRoot) -> None:
        self._settings = settings
        self._runtime = runtime
        self._top = Path(settings.state, "workspaces")
        self._holders: Counter[_Key] = Counter()
        self._kept: dict[_Key, None] = {}  # mounted without a holder, the oldest first
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Make the directory that only root may enter, and take away what unfinished work left. Idempotent."""
        self._top.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._top.chmod(0o700)
        for left in (*self._top.glob(f"*/{STAGING}*"), *self._top.glob(f"*/{_GONE}*")):
            clear(left)

    def unmount_unheld(self) -> None:
        """Unmount what an earlier process left mounted and nobody holds here. Sandboxes that still show one keep it."""
        with self._lock:
            held = {str(self._mount_point(*key)) for key in (*self._holders, *self._kept)}
            for mount in mounts_at_or_below(str(self._runtime.named)):
                if mount.path not in held:
                    unmount_all(mount.path)

    def hold(self, tenant: TenantId, name: str, *, make: bool, use: bool = True) -> Held:
        """The workspace, mounted if it has a size; made with the configured size when it is not there and `make`. Only
        with `use` it counts as used.

        Raises:
            PerstackError: NOT_FOUND `workspace_not_found`; as `make_image`, `mount_image` and `room_on_disk` do.
        """
        with self._lock, room_on_disk():
            directory = self._directory(tenant, name)
            if make and not _is_whole(directory):
                self._make(directory, self._settings.quota)
            if not _is_whole(directory):
                raise _not_found(name)
            held = self._hold(tenant, name, directory)
            if use:
                self._touch(directory)
            return held

    def let_go(self, held: Held, *, use: bool = True) -> None:
        """Unmount it when nobody else has it. The descriptors are closed."""
        os.close(held.data)
        os.close(held.outer)
        with self._lock:
            key = (held.tenant, held.name)
            if use:
                self._touch(self._top / held.tenant / held.name)
            self._holders[key] -= 1
            if not self._holders[key]:
                del self._holders[key]
                if held.quota is not None:
                    self._kept[key] = None
                while len(self._kept) > self._settings.kept_mounted:
                    self._unmount(next(iter(self._kept)))

    def create(self, tenant: TenantId, name: str, quota: Quota | None) -> None:
        """Make one; None means without a size.

        Raises:
            PerstackError: ALREADY_EXISTS `workspace_exists`; as `make_image` and `room_on_disk` do.
        """
        with self._lock, room_on_disk():
            directory = self._directory(tenant, name)
            if _is_whole(directory):
                message = f"there is a workspace {name!r} already; choose another name, or remove it first"
                raise PerstackError(Kind.ALREADY_EXISTS, "workspace_exists", message)
            self._make(directory, quota)

    def remove(self, tenant: TenantId, name: str) -> None:
        """Out of sight at once, then gone.

        Raises:
            PerstackError: NOT_FOUND `workspace_not_found`; CONFLICT `workspace_in_use` while somebody holds it.
        """
        with self._lock:
            directory = self._directory(tenant, name)
            if self._holders[tenant, name]:
                message = f"the workspace {name!r} is in use; try again when its jobs and transfers have ended"
                raise PerstackError(Kind.CONFLICT, "workspace_in_use", message)
            self._unmount((tenant, name))
            gone = directory.with_name(f"{_GONE}{secrets.token_hex(8)}")
            try:
                directory.rename(gone)
            except FileNotFoundError as error:
                raise _not_found(name) from error
            directory.with_name(f"{_USED}{name}").unlink(missing_ok=True)
        clear(gone)

    def names(self, tenant: TenantId) -> tuple[str, ...]:
        """All of the tenant's, sorted."""
        check_tenant(tenant)
        with contextlib.suppress(FileNotFoundError):
            found = [path.name for path in (self._top / tenant).iterdir() if _is_whole(path)]
            return tuple(sorted(name for name in found if not name.startswith(_HIDDEN)))
        return ()

    def size(self, tenant: TenantId, name: str) -> tuple[Quota | None, Usage | None, int]:
        """Its quota, what is used of it (None where only a walk can tell), and when it was last used, in milliseconds.

        Raises:
            PerstackError: NOT_FOUND `workspace_not_found`; PRECONDITION `workspace_damaged`.
        """
        with self._lock:
            directory = self._directory(tenant, name)
            if not _is_whole(directory):
                raise _not_found(name)
            used_at = _used_at(directory)
            if not _is_image(directory):
                return None, None, used_at
            shown = self._holders[tenant, name] or (tenant, name) in self._kept
            mounted = self._mount_point(tenant, name) if shown else None
            return quota_of(directory), usage_of(directory, mounted), used_at

    # --- inside, with the lock --------------------------------------------------------------------------------------
    def _hold(self, tenant: TenantId, name: str, directory: Path) -> Held:
        with contextlib.ExitStack() as undo:
            if _is_image(directory):
                top = self._mounted(tenant, name, directory)
                if not self._holders[tenant, name]:
                    undo.callback(self._unmount, (tenant, name))
                outer, inner, quota = top, DATA, quota_of(directory)
            else:
                outer, inner, quota = directory.parent, name, None
            outer_descriptor = syscalls.openat2(
                syscalls.AT_FDCWD, str(outer), syscalls.DIRECTORY, syscalls.WITHOUT_LINKS
            )
            undo.callback(os.close, outer_descriptor)
            held = Held(tenant, name, _opened(outer_descriptor, inner), outer_descriptor, quota)
            undo.pop_all()
        self._holders[tenant, name] += 1
        self._kept.pop((tenant, name), None)
        return held

    def _mounted(self, tenant: TenantId, name: str, directory: Path) -> Path:
        top = self._mount_point(tenant, name)
        if not any(mount.path == str(top) for mount in mounts_at_or_below(str(top))):
            mount_image(directory, top, self._settings.managed_uid)
            for left in top.glob(f"{STAGING}*"):
                clear(left)
        return top

    def _unmount(self, key: _Key) -> None:
        self._kept.pop(key, None)
        unmount_all(str(self._mount_point(*key)))

    def _make(self, directory: Path, quota: Quota | None) -> None:
        """A directory that is root's and has no image is half-made: only root can make anything at this level."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if quota is None:
            os.chown(directory, self._settings.managed_uid, self._settings.managed_uid)
        else:
            make_image(directory, quota)
        self._touch(directory)

    def _directory(self, tenant: TenantId, name: str) -> Path:
        check_tenant(tenant)
        named(name)
        return self._top / tenant / name

    def _mount_point(self, tenant: TenantId, name: str) -> Path:
        return self._runtime.named / tenant / name

    def _touch(self, directory: Path) -> None:
        directory.with_name(f"{_USED}{directory.name}").touch(mode=0o600)


def _is_image(directory: Path) -> bool:
    return directory.stat().st_uid == 0


def _is_whole(directory: Path) -> bool:
    """Whether it was made to its end: by us, and no earlier process died in the middle."""
    try:
        return not _is_image(directory) or (directory / IMAGE).exists()
    except FileNotFoundError:
        return False


def _opened(outer: int, name: str) -> int:
    """The workspace itself. A link in its place was put there by nobody that we know."""
    try:
        return syscalls.openat2(outer, name, syscalls.DIRECTORY, syscalls.INSIDE)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.EXDEV, errno.ENOTDIR, errno.ENOENT}:
            raise
        message = f"the directory of the workspace {name!r} is not a plain directory ({error}); look at it on the host"
        raise PerstackError(Kind.PRECONDITION, "workspace_damaged", message) from error


def _used_at(directory: Path) -> int:
    for path in (directory.with_name(f"{_USED}{directory.name}"), directory):
        with contextlib.suppress(FileNotFoundError):
            return path.stat().st_mtime_ns // 1_000_000
    return 0


def check_tenant(tenant: TenantId) -> None:
    """Raises PerstackError INVALID `tenant_invalid` when it cannot be the name of a directory."""
    if not _TENANT.fullmatch(tenant):
        raise PerstackError(Kind.INVALID, "tenant_invalid", f"the tenant {tenant[:80]!r} cannot be a directory's name")


def _not_found(name: str) -> PerstackError:
    message = f"there is no workspace {name!r}; perstackctl workspace ls lists them, workspace create makes one"
    return PerstackError(Kind.NOT_FOUND, "workspace_not_found", message)
