"""One attachment: an idmapped, nosuid, nodev copy of a held directory on a slot, checked before and after.

The copy gets all its attributes while it is detached, so a sandbox never sees it without them. Blocking; one thread.
"""

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.mountinfo import file_system_of
from perstackd.adapters.workspaces.places import Source
from perstackd.adapters.workspaces.root import WORKSPACE, RuntimeRoot
from perstackd.adapters.workspaces.userns import UserNamespaces
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.workspace import WorkspaceKind

_RESTRICTED: Final = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
# EPERM stands for a mount that is idmapped already, beside a missing capability (mount_setattr(2), ERRORS)
_REFUSALS: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS})


class Binder:
    """Attaches sources to slots."""

    def __init__(
        self,
        root: RuntimeRoot,
        namespaces: UserNamespaces,
        set_attributes: Callable[[int, int, int], None] = syscalls.set_mount_attributes,
    ) -> None:
        self._root = root
        self._namespaces = namespaces
        self._set_attributes = set_attributes

    def check(self, source: Source) -> None:
        """Try the idmap on a copy that is never attached.

        Raises:
            PerstackError: PRECONDITION `workspace_unsupported` when the file system refuses it.
        """
        if source.kind is not WorkspaceKind.EPHEMERAL:
            os.close(self._mapped_tree(source, source.owner.uid, _RESTRICTED))

    def bind(self, source: Source, slot: str, uid: int, *, read_only: bool) -> None:
        """Mount `source` on `slot`/workspace with its owner shown as `uid`. Nothing stays mounted when it raises.

        Raises:
            PerstackError: PRECONDITION `workspace_unsupported`, `slot_missing`, `workspace_unsafe`; CONFLICT `slot_taken`.
        """
        attributes = _RESTRICTED | (syscalls.MOUNT_ATTR_RDONLY if read_only else 0)
        outer, target = self._root.open_target(slot)
        try:
            tree = self._tree(source, uid, attributes)
            try:
                _verify(tree, source, uid, attributes)
                syscalls.attach_tree(tree, target)
            finally:
                os.close(tree)
            self._verify_attached(outer, source, slot, uid, attributes)
        finally:
            os.close(target)
            os.close(outer)

    def _verify_attached(self, outer: int, source: Source, slot: str, uid: int, attributes: int) -> None:  # noqa: PLR0917: what was asked
        try:
            seen = syscalls.openat2(outer, WORKSPACE, syscalls.DIRECTORY, syscalls.INSIDE)
            try:
                _verify(seen, source, uid, attributes)
            finally:
                os.close(seen)
        except (OSError, PerstackError):
            self._root.clear_slot(slot)
            raise

    def _tree(self, source: Source, uid: int, attributes: int) -> int:
        try:
            return self._mapped_tree(source, uid, attributes)
        except PerstackError as error:
            if source.kind is WorkspaceKind.EPHEMERAL and error.reason == "workspace_unsupported":
                return self._given_tree(source, uid, attributes)
            raise

    def _mapped_tree(self, source: Source, uid: int, attributes: int) -> int:
        namespace = self._namespaces.get(source.owner, uid)
        tree = _clone(source)
        try:
            self._set_attributes(tree, attributes | syscalls.MOUNT_ATTR_IDMAP, namespace)
        except OSError as error:
            os.close(tree)
            if error.errno in _REFUSALS:
                raise _unsupported(source, error) from error
            raise
        return tree

    def _given_tree(self, source: Source, uid: int, attributes: int) -> int:
        """Before Linux 6.3 a tmpfs cannot be idmapped: give an ephemeral workspace to its first sandbox instead."""
        if os.fstat(source.descriptor).st_uid not in (source.owner.uid, uid):
            raise PerstackError(
                Kind.PRECONDITION,
                "workspace_unsupported",
                f"the {source.name} cannot be shared by two sandboxes before Linux 6.3; use a named workspace",
            )
        os.chown(f"/proc/self/fd/{source.descriptor}", uid, uid)
        tree = _clone(source)
        try:
            self._set_attributes(tree, attributes, 0)
        except OSError:
            os.close(tree)
            raise
        return tree


def _clone(source: Source) -> int:
    try:
        return syscalls.clone_tree(source.descriptor)
    except OSError as error:
        if error.errno in _REFUSALS:
            raise _unsupported(source, error) from error
        raise


def _verify(descriptor: int, source: Source, uid: int, attributes: int) -> None:
    """Compare what the kernel shows with what was asked; a kernel that forgets a flag without a word is the reason."""
    flags = os.fstatvfs(descriptor).f_flag
    seen, held = os.fstat(descriptor), os.fstat(source.descriptor)
    wrong = [
        name
        for name, right in (
            ("nosuid", flags & os.ST_NOSUID),
            ("nodev", flags & os.ST_NODEV),
            ("ro", flags & os.ST_RDONLY or not attributes & syscalls.MOUNT_ATTR_RDONLY),
            ("owner", seen.st_uid == uid),
            ("directory", (seen.st_dev, seen.st_ino) == (held.st_dev, held.st_ino) and stat.S_ISDIR(seen.st_mode)),
        )
        if not right
    ]
    if wrong:
        raise PerstackError(
            Kind.PRECONDITION,
            "workspace_unsafe",
            f"the workspace {source.name} was attached with a different {', '.join(wrong)} than asked and was taken away again; "
            "see whether its owner was changed meanwhile",
            fields={"differences": ",".join(wrong)},
        )


def _unsupported(source: Source, error: OSError) -> PerstackError:
    kind = file_system_of(source.descriptor)
    return PerstackError(
        Kind.PRECONDITION,
        "workspace_unsupported",
        f"the workspace {source.name} is on {kind}, which refuses an idmapped mount ({error}); use a directory on ext4, xfs or "
        "btrfs that is not idmapped itself, or a named workspace, and Linux 5.12 or newer",
        fields={"file_system": kind},
    )
