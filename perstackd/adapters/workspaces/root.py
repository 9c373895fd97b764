"""The runtime directory: a shared mount below which slots and ephemeral workspaces live.

It must be a shared mount, because a container sees a later mount only through one (mount_namespaces(7)); it is made one
here, by a bind mount on itself in a peer group of its own. It outlives the daemon, as the sandboxes do.
"""

import errno
import os
from collections.abc import Collection
from pathlib import Path
from typing import Final

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.mountinfo import MountPoint, mounts_at_or_below
from perstackd.domain.errors import Kind, PerstackError

WORKSPACE: Final = "workspace"
_STACKED: Final = 16


class RuntimeRoot:
    """Makes slots and takes mounts away. Blocking; one thread at a time."""

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/")

    def prepare(self) -> None:
        """Make the directory a shared mount of its own. Idempotent; mounts of an earlier process stay.

        Raises:
            PerstackError: PRECONDITION `workspace_unsupported` when this process may not mount.
        """
        Path(self.path).mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            own = [mount for mount in mounts_at_or_below(self.path) if mount.path == self.path]
            if not own:
                syscalls.mount(self.path, self.path, flags=syscalls.MS_BIND)
            if not (own and all(mount.shared for mount in own)):
                # private first: a copy of a shared mount stays in its peer group, and every slot would appear twice
                syscalls.mount("", self.path, flags=syscalls.MS_PRIVATE)
                syscalls.mount("", self.path, flags=syscalls.MS_SHARED)
        except PermissionError as error:
            raise PerstackError(
                Kind.PRECONDITION,
                "workspace_unsupported",
                f"{self.path} cannot be made a shared mount: {error}; run perstackd with CAP_SYS_ADMIN on the host",
            ) from error
        for directory in (self.ephemeral, self.named):
            directory.mkdir(mode=0o700, exist_ok=True)

    @property
    def ephemeral(self) -> Path:
        """Where ephemeral workspaces are mounted, one directory per job."""
        return Path(self.path, "ephemeral")

    @property
    def named(self) -> Path:
        """Where named workspaces with a size are mounted while somebody has them, by tenant and name."""
        return Path(self.path, "named")

    def leftovers(self) -> tuple[MountPoint, ...]:
        """Every mount below the directory, whoever made it, the deepest first."""
        return tuple(mount for mount in mounts_at_or_below(self.path) if mount.path != self.path)

    def cleanup(self, keep: Collection[str] = ()) -> None:
        """Unmount everything below the directory and the directory itself. Files stay. Idempotent. `keep` are mounts
        that wait for the next process; while there is one the directory stays a mount.
        """
        kept = {*keep, self.path} if keep else set()
        for mount in mounts_at_or_below(self.path):
            if mount.path not in kept:
                unmount_all(mount.path)

    def prepare_slot(self, slot: str) -> None:
        """Make `slot` and its mount point. Idempotent."""
        self._check(slot)
        # readable by the sandbox's uid, written by nobody but root
        for directory in (Path(slot), Path(slot, WORKSPACE)):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)

    def open_target(self, slot: str) -> tuple[int, int]:
        """Descriptors of the slot and of its empty mount point; the caller closes both.

        Raises:
            PerstackError: PRECONDITION `slot_missing`; CONFLICT `slot_taken` when something is mounted there.
        """
        self._check(slot)
        try:
            outer = syscalls.openat2(syscalls.AT_FDCWD, slot, syscalls.DIRECTORY, syscalls.WITHOUT_LINKS)
        except OSError as error:
            raise _slot_missing(slot, error) from error
        try:
            return outer, syscalls.openat2(
                outer, WORKSPACE, syscalls.DIRECTORY, syscalls.INSIDE | syscalls.RESOLVE_NO_XDEV
            )
        except OSError as error:
            os.close(outer)
            if error.errno != errno.EXDEV:
                raise _slot_missing(slot, error) from error
            message = f"{slot} already has a workspace; detach it first"
            raise PerstackError(Kind.CONFLICT, "slot_taken", message) from error

    def open_attached(self, slot: str) -> int:
        """A descriptor of what the sandbox of `slot` has as its workspace; the caller closes it. Raises PerstackError
        PRECONDITION `slot_missing`.
        """
        self._check(slot)
        try:
            outer = syscalls.openat2(syscalls.AT_FDCWD, slot, syscalls.DIRECTORY, syscalls.WITHOUT_LINKS)
            try:
                return syscalls.openat2(outer, WORKSPACE, syscalls.DIRECTORY, syscalls.INSIDE)
            finally:
                os.close(outer)
        except OSError as error:
            raise _slot_missing(slot, error) from error

    def clear_slot(self, slot: str) -> None:
        """Unmount whatever is on the slot. Idempotent."""
        self._check(slot)
        unmount_all(f"{slot}/{WORKSPACE}")

    def _check(self, slot: str) -> None:
        if not slot.startswith(self.path + "/") or {".", ".."} & set(slot.split("/")):
            raise PerstackError(
                Kind.INVALID, "slot_invalid", f"the slot {slot!r} is not a plain path below {self.path}"
            )


def unmount_all(path: str) -> None:
    """Unmount `path` until nothing is mounted there. Idempotent; a path that does not exist is fine."""
    for _ in range(_STACKED):
        try:
            syscalls.unmount(path)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return
    raise PerstackError(Kind.INTERNAL, "workspace_stuck", f"{path} is still a mount point after {_STACKED} unmounts")


def _slot_missing(slot: str, error: OSError) -> PerstackError:
    return PerstackError(Kind.PRECONDITION, "slot_missing", f"the slot {slot} was not prepared: {error}")
