"""One attachment: an idmapped, nosuid, nodev copy of a held directory on a slot, checked before and after.

The copy gets all its attributes while it is detached, so a sandbox never sees it without them. Blocking; one thread.
"""

import errno
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
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
            os.close(self._mapped_tree(_Wanted(source, source.owner.uid, _RESTRICTED)))

    def bind(self, source: Source, slot: str, uid: int, *, read_only: bool) -> None:
        """Mount `source` on `slot`/workspace with its owner shown as `uid`. Nothing stays mounted when it raises.

        Raises:
            PerstackError: PRECONDITION `workspace_unsupported`, `slot_missing`, `workspace_unsafe`,
                `workspace_attach_failed`; CONFLICT `slot_taken`.
        """
        wanted = _Wanted(source, uid, _RESTRICTED | (syscalls.MOUNT_ATTR_RDONLY if read_only else 0))
        with ExitStack() as held:
            outer, target = self._root.open_target(slot)
            held.callback(os.close, outer)
            held.callback(os.close, target)
            tree = self._tree(wanted)
            held.callback(os.close, tree)
            wanted.verify(tree)
            try:
                syscalls.attach_tree(tree, target)
            except OSError as error:
                message = f"the workspace {source.name} cannot be mounted on {slot}: {error}"
                raise PerstackError(Kind.PRECONDITION, "workspace_attach_failed", message) from error
            self._verify_attached(outer, slot, wanted)

    def verify(self, source: Source, slot: str, uid: int, *, read_only: bool) -> None:
        """Look at what an earlier process mounted on `slot`/workspace. Changes nothing.

        Raises:
            PerstackError: PRECONDITION `workspace_unsafe` when it is not what `bind` would mount; `slot_missing`.
        """
        wanted = _Wanted(source, uid, _RESTRICTED | (syscalls.MOUNT_ATTR_RDONLY if read_only else 0))
        seen = self._root.open_attached(slot)
        try:
            wanted.verify(seen)
        finally:
            os.close(seen)

    def _verify_attached(self, outer: int, slot: str, wanted: "_Wanted") -> None:
        try:
            seen = syscalls.openat2(outer, WORKSPACE, syscalls.DIRECTORY, syscalls.INSIDE)
            try:
                wanted.verify(seen)
            finally:
                os.close(seen)
        except (OSError, PerstackError):
            self._root.clear_slot(slot)
            raise

    def _tree(self, wanted: "_Wanted") -> int:
        try:
            return self._mapped_tree(wanted)
        except PerstackError as error:
            if wanted.source.kind is WorkspaceKind.EPHEMERAL and error.reason == "workspace_unsupported":
                return self._given_tree(wanted)
            raise

    def _mapped_tree(self, wanted: "_Wanted") -> int:
        namespace = self._namespaces.get(wanted.source.owner, wanted.uid)
        try:
            return self._tree_with(wanted.source, wanted.attributes | syscalls.MOUNT_ATTR_IDMAP, namespace)
        finally:
            os.close(namespace)

    def _given_tree(self, wanted: "_Wanted") -> int:
        """Before Linux 6.3 a tmpfs cannot be idmapped: give an ephemeral workspace to its first sandbox instead."""
        source = wanted.source
        if os.fstat(source.descriptor).st_uid not in (source.owner.uid, wanted.uid):
            raise PerstackError(
                Kind.PRECONDITION,
                "workspace_unsupported",
                f"the ephemeral workspace {source.name} cannot be shared by two sandboxes before Linux 6.3; "
                "use a named workspace",
            )
        os.chown(f"/proc/self/fd/{source.descriptor}", wanted.uid, wanted.uid)
        return self._tree_with(source, wanted.attributes, 0)

    def _tree_with(self, source: Source, attributes: int, namespace: int) -> int:
        try:
            tree = syscalls.clone_tree(source.descriptor)
            try:
                self._set_attributes(tree, attributes, namespace)
            except OSError:
                os.close(tree)
                raise
        except OSError as error:
            if error.errno in _REFUSALS:
                raise _unsupported(source, error) from error
            raise
        return tree


@dataclass(frozen=True, slots=True)
class _Wanted:
    source: Source
    uid: int
    attributes: int

    def verify(self, descriptor: int) -> None:
        """Compare what the kernel shows with what was asked: a kernel or engine that forgets a flag says nothing."""
        wrong = [name for name, right in self._findings(descriptor) if not right]
        if wrong:
            raise PerstackError(
                Kind.PRECONDITION,
                "workspace_unsafe",
                f"the workspace {self.source.name} was not attached: its {', '.join(wrong)} would differ from what was "
                "asked; see whether its owner was changed meanwhile",
                fields={"differences": ",".join(wrong)},
            )

    def _findings(self, descriptor: int) -> tuple[tuple[str, bool], ...]:
        flags = os.fstatvfs(descriptor).f_flag
        seen, held = os.fstat(descriptor), os.fstat(self.source.descriptor)
        return (
            ("nosuid", bool(flags & os.ST_NOSUID)),
            ("nodev", bool(flags & os.ST_NODEV)),
            ("ro", bool(flags & os.ST_RDONLY) or not self.attributes & syscalls.MOUNT_ATTR_RDONLY),
            ("owner", seen.st_uid == self.uid),
            ("directory", (seen.st_dev, seen.st_ino) == (held.st_dev, held.st_ino)),
        )


def _unsupported(source: Source, error: OSError) -> PerstackError:
    kind = file_system_of(source.descriptor)
    return PerstackError(
        Kind.PRECONDITION,
        "workspace_unsupported",
        f"the workspace {source.name} is on {kind}, which refuses an idmapped mount ({error}); use a directory on "
        "ext4, xfs or btrfs that is not idmapped itself, or a named workspace, and Linux 5.12 or newer",
        fields={"file_system": kind},
    )
