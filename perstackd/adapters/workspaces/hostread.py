"""Reading a file of a workspace from the host. The tree is hostile: links, devices and FIFOs in it are traps."""

import errno
import os
import stat
from typing import Final

from perstackd.adapters.workspaces import syscalls
from perstackd.domain.errors import Kind, PerstackError

_ESCAPES: Final = frozenset({errno.ELOOP, errno.EXDEV})


def read_beneath(root: int | str, relative: str, limit: int) -> bytes:
    """The content of the regular file `relative` below `root`, a directory's path or descriptor. Blocking.

    No component below `root` may be a link or lead out of it, and nothing but a regular file is ever opened for
    reading. `limit` is in bytes.

    Raises:
        PerstackError: NOT_FOUND `workspace_file_not_found`; DENIED `workspace_file_refused`;
            EXHAUSTED `workspace_file_too_large`.
    """
    if "\0" in relative:
        raise _refused(relative, "its name holds a zero byte")
    try:
        return _read(root, relative, limit)
    except OSError as error:
        if error.errno in _ESCAPES:
            raise _refused(relative, "its path has a symbolic link or leaves the workspace") from error
        message = f"the workspace has no file {relative}: {os.strerror(error.errno or errno.EIO)}"
        raise PerstackError(Kind.NOT_FOUND, "workspace_file_not_found", message) from error


def _read(root: int | str, relative: str, limit: int) -> bytes:
    if isinstance(root, int):
        return _read_below(root, relative, limit)
    directory = syscalls.openat2(syscalls.AT_FDCWD, root, syscalls.DIRECTORY, syscalls.WITHOUT_LINKS)
    try:
        return _read_below(directory, relative, limit)
    finally:
        os.close(directory)


def _read_below(root: int, relative: str, limit: int) -> bytes:
    # O_PATH first: opening a device or a FIFO to find out what it is already has effects
    found = syscalls.openat2(root, relative, os.O_PATH | os.O_NOFOLLOW, syscalls.INSIDE)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise _refused(relative, "it is not a regular file")
        reading = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(found)
    with os.fdopen(reading, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        message = f"the file {relative} has more than {limit} bytes; read it inside the workspace"
        raise PerstackError(Kind.EXHAUSTED, "workspace_file_too_large", message)
    return content


def _refused(relative: str, why: str) -> PerstackError:
    return PerstackError(
        Kind.DENIED, "workspace_file_refused", f"the file {relative!r} is not read from the host: {why}"
    )
