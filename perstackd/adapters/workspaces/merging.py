"""Moving a tree of ours into a workspace that sandboxes may be changing. Blocking.

Everything goes by descriptor and by the last name alone: a rename follows no link, and a directory is entered only as
the one that it is. So the worst that a job can do by changing names at the same time is to stop the merge.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.tar_reader import shown
from perstackd.domain.errors import Kind, PerstackError

_RACED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST, errno.ELOOP, errno.EXDEV})


def merge(source: int, target: int) -> None:
    """Move all that is in the open directory `source` into `target`, on the same file system.

    Raises:
        PerstackError: PRECONDITION `archive_conflict`, before anything is moved; CONFLICT `workspace_changed`.
    """
    try:
        _compare(source, target, b"")
        _move(source, target)
    except OSError as error:
        if error.errno not in _RACED:
            raise
        raise PerstackError(
            Kind.CONFLICT,
            "workspace_changed",
            "a job changed the same names while the archive was moved into the workspace: part of it may be there; "
            "send it again when the job has ended",
            retryable=True,
        ) from error


def _compare(source: int, target: int, above: bytes) -> None:
    for name in _names(source):
        there = _kind(target, name)
        if there is None:
            continue
        ours, path = _kind(source, name) or 0, above + name
        if stat.S_ISDIR(ours) != stat.S_ISDIR(there):
            raise PerstackError(
                Kind.PRECONDITION,
                "archive_conflict",
                f"{shown(path)} is a directory in the archive or in the workspace and something else in the other; "
                "nothing was changed. Rename one, or give another directory",
            )
        if stat.S_ISDIR(ours):
            with _both(source, target, name) as (inner, below):
                _compare(inner, below, path + b"/")


def _move(source: int, target: int) -> None:
    for name in _names(source):
        ours, there = _kind(source, name) or 0, _kind(target, name)
        if there is not None and stat.S_ISDIR(ours) and stat.S_ISDIR(there):
            with _both(source, target, name) as (inner, below):
                _move(inner, below)
        else:
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)


def _kind(directory: int, name: bytes) -> int | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


@contextmanager
def _both(source: int, target: int, name: bytes) -> Iterator[tuple[int, int]]:
    resolve, path = syscalls.INSIDE | syscalls.RESOLVE_NO_XDEV, os.fsdecode(name)
    inner = syscalls.openat2(source, path, syscalls.DIRECTORY, resolve)
    try:
        below = syscalls.openat2(target, path, syscalls.DIRECTORY, resolve)
        try:
            yield inner, below
        finally:
            os.close(below)
    finally:
        os.close(inner)


def _names(directory: int) -> list[bytes]:
    reading = syscalls.openat2(directory, ".", os.O_RDONLY | os.O_DIRECTORY, syscalls.INSIDE)
    try:
        with os.scandir(reading) as entries:
            return [os.fsencode(entry.name) for entry in entries]
    finally:
        os.close(reading)
