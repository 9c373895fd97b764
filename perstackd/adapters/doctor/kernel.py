"""The kernel: system calls and features that sandboxes and workspaces stand on."""

import ctypes
import errno
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from perstackd.adapters.doctor.subject import Subject
from perstackd.adapters.landlock import landlock_abi
from perstackd.adapters.workspaces import syscalls
from perstackd.domain.checkup import Finding, error, good, warning

_AREA: Final = "kernel"
_MOUNT_SETATTR: Final = 442  # asm-generic/unistd.h
_LEAST: Final = (5, 12)
_SHARED_TMPFS: Final = (6, 3)


def examine(_subject: Subject) -> Iterator[Finding]:
    """Version, openat2, mount_setattr, seccomp, Landlock, cgroups, user namespaces."""
    yield _version(platform.release())
    yield _openat2()
    yield _mount_setattr()
    yield _seccomp()
    yield _landlock(landlock_abi())
    yield _cgroup()
    yield _user_namespaces()


def _version(release: str) -> Finding:
    numbers = re.match(r"(\d+)\.(\d+)", release)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if version < _LEAST:
        return error(_AREA, "version", release, "idmapped mounts need Linux 5.12 or newer: boot a newer kernel")
    if version < _SHARED_TMPFS:
        remedy = "before Linux 6.3 delegates cannot share an ephemeral workspace: use named ones, or a newer kernel"
        return warning(_AREA, "version", release, remedy)
    return good(_AREA, "version", release)


def _openat2() -> Finding:
    try:
        os.close(syscalls.openat2(syscalls.AT_FDCWD, "/", syscalls.DIRECTORY, syscalls.WITHOUT_LINKS))
    except OSError as failure:
        remedy = "it needs Linux 5.6, and no filter around this process that refuses it"
        return error(_AREA, "openat2", str(failure), remedy)
    return good(_AREA, "openat2", "works")


def _mount_setattr() -> Finding:
    """Asked to change nothing of nothing: only its lack or a filter says ENOSYS or EPERM."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_long(-1), b"", ctypes.c_long(0x1000), bytes(32), ctypes.c_long(32))
    if libc.syscall(ctypes.c_long(_MOUNT_SETATTR), *arguments) == 0 or ctypes.get_errno() not in {
        errno.ENOSYS,
        errno.EPERM,
    }:
        return good(_AREA, "mount_setattr", "works")
    found = os.strerror(ctypes.get_errno())
    return error(_AREA, "mount_setattr", found, "it needs Linux 5.12, root, and no filter around this process")


def _seccomp() -> Finding:
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    try:
        found = actions.read_text().strip()
    except OSError:
        return error(_AREA, "seccomp", "the kernel has no filters", "boot a kernel with CONFIG_SECCOMP_FILTER")
    if not {"errno", "allow"} <= set(found.split()):
        return error(_AREA, "seccomp", found, "boot a kernel whose filters can refuse with an error")
    return good(_AREA, "seccomp", found)


def _landlock(abi: int) -> Finding:
    if abi:
        return good(_AREA, "landlock", f"ABI {abi}")
    remedy = "skills of one sandbox are not kept apart without it: boot with lsm=landlock,... on Linux 5.13 or newer"
    return warning(_AREA, "landlock", "none", remedy)


def _cgroup() -> Finding:
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    if unified.exists():
        missing = sorted({"cpu", "memory", "pids"} - set(unified.read_text().split()))
        found = "version 2" if not missing else f"version 2 without {', '.join(missing)}"
    else:
        wanted = ("cpu", "memory", "pids")
        missing = [name for name in wanted if not Path("/sys/fs/cgroup", name).exists()]
        found = "version 1" if not missing else f"version 1 without {', '.join(missing)}"
    if missing:
        return error(
            _AREA, "cgroups", found, "limits need these controllers: mount them, or boot without cgroup_disable"
        )
    return good(_AREA, "cgroups", found)


def _user_namespaces() -> Finding:
    try:
        most = int(Path("/proc/sys/user/max_user_namespaces").read_text())
    except (OSError, ValueError):
        return error(_AREA, "user namespaces", "none", "idmapped mounts need them: boot a kernel with CONFIG_USER_NS")
    if most < 1024:
        return error(_AREA, "user namespaces", f"at most {most}", "raise user.max_user_namespaces to 10000 or more")
    return good(_AREA, "user namespaces", f"at most {most}")
