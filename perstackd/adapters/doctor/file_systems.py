"""The file systems that workspaces lie on: whether they can be shown under another uid. Tried on detached copies of
mounts, which nobody ever sees.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from perstackd.adapters.doctor.subject import Subject
from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.mountinfo import file_system_of
from perstackd.adapters.workspaces.userns import Owner, UserNamespaces
from perstackd.domain.checkup import Finding, error, good, warning
from perstackd.domain.errors import PerstackError

_AREA: Final = "workspaces"
_OWNER: Final = 1000


def examine(subject: Subject) -> Iterator[Finding]:
    """Each directory of the configuration, and a tmpfs for ephemeral workspaces. Needs root."""
    namespaces = UserNamespaces(subject.spare_uid)
    namespaces.start()
    try:
        namespace = namespaces.get(Owner.of(_OWNER, _OWNER), subject.sandbox_uids[0])
    except PerstackError as failure:
        yield error(_AREA, "user namespace", failure.message, "see user.max_user_namespaces and the security modules")
        return
    finally:
        namespaces.close()
    try:
        yield _state(subject.state, namespace)
        for root in subject.roots:
            yield _root(root, namespace)
        yield _ephemeral(namespace)
    finally:
        os.close(namespace)


def _state(wanted: Path, namespace: int) -> Finding:
    path = next(each for each in (wanted, *wanted.parents) if each.exists())
    kind, refusal = _tried(path, namespace)
    found = f"{path} is on {kind}"
    if refusal:
        return error(_AREA, "state_directory", f"{found}: {refusal}", "named workspaces need ext4, xfs or btrfs")
    return good(_AREA, "state_directory", f"{found}, which can be idmapped")


def _root(root: Path, namespace: int) -> Finding:
    check = f"root {root}"
    if not root.is_dir():
        return error(_AREA, check, "is not there, or no directory", "make it, or take it out of workspace_roots")
    if root.resolve() != root:
        return error(
            _AREA, check, f"is, or lies behind, a link: {root.resolve()}", "name the real path in workspace_roots"
        )
    kind, refusal = _tried(root, namespace)
    if refusal:
        return error(_AREA, check, f"is on {kind}: {refusal}", "jobs there are refused: use ext4, xfs or btrfs")
    return good(_AREA, check, f"is on {kind}, which can be idmapped")


def _ephemeral(namespace: int) -> Finding:
    where = Path("/dev/shm")  # noqa: S108 - the tmpfs that every machine has
    kind, refusal = _tried(where, namespace) if where.is_dir() else ("nothing", "there is no /dev/shm to try it on")
    if refusal:
        remedy = "before Linux 6.3 delegates cannot share an ephemeral workspace: use named ones, or a newer kernel"
        return warning(_AREA, "ephemeral", f"{kind}: {refusal}", remedy)
    return good(_AREA, "ephemeral", f"{kind} can be idmapped")


def _tried(path: Path, namespace: int) -> tuple[str, str]:
    """The file system's type, and why it refuses; empty when it does not."""
    source = syscalls.openat2(syscalls.AT_FDCWD, str(path), syscalls.DIRECTORY, 0)
    try:
        kind = file_system_of(source)
        tree = syscalls.clone_tree(source)
        try:
            syscalls.set_mount_attributes(tree, syscalls.MOUNT_ATTR_IDMAP, namespace)
        finally:
            os.close(tree)
    except OSError as failure:
        return kind, str(failure)
    finally:
        os.close(source)
    return kind, ""
