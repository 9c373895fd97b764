"""A Landlock domain for the proxy: of all files it can read those that name resolution reads, and nothing else.

Source: landlock(7), include/uapi/linux/landlock.h. The domain is the calling thread's and of what it starts, so it is
entered before there are others.
"""

import ctypes
import os
import platform
from collections.abc import Sequence
from typing import Final

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture that has them
_VERSION_FLAG: Final = 1
_READ_FILE: Final = 1 << 2
_RULE_PATH_BENEATH: Final = 1
# Rights that the versions brought: 13 at first, then refer, truncate, and ioctl on devices.
_FILE_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_BIND_TCP: Final = 1 << 0
_FIRST_WITH_NET: Final = 4
_SCOPES: Final = (1 << 0) | (1 << 1)  # abstract sockets and signals
_FIRST_WITH_SCOPES: Final = 6


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """The kernel's Landlock version; 0 when it has none, or it is switched off."""
    if platform.machine() not in ("x86_64", "aarch64", "riscv64"):
        return 0
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION_FLAG))))


def restrict(version: int, readable: Sequence[str]) -> None:
    """Enter the domain; `version` is `abi()` and not 0. Files of `readable` that are not there are left out.

    Also forbidden: to listen on TCP ports (from version 4), and to reach abstract sockets and send signals outside
    (from 6).

    Raises:
        OSError: the kernel refused; the caller must not go on.
    """
    ruleset = _create(version)
    try:
        for path in readable:
            _allow(ruleset, path)
        _check(_libc().syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint(0)), "landlock_restrict_self")
    finally:
        os.close(ruleset)


def _create(version: int) -> int:
    files = (1 << _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]) - 1
    net = _BIND_TCP if version >= _FIRST_WITH_NET else 0
    scoped = _SCOPES if version >= _FIRST_WITH_SCOPES else 0
    size = 8 if version < _FIRST_WITH_NET else 16 if version < _FIRST_WITH_SCOPES else 24
    attributes = _Ruleset(files, net, scoped)
    made = _libc().syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint(0))
    return _check(made, "landlock_create_ruleset")


def _allow(ruleset: int, path: str) -> None:
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        rule = _PathBeneath(_READ_FILE, file)
        added = _libc().syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint(0))
        _check(added, f"landlock_add_rule {path}")
    finally:
        os.close(file)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(value: int, call: str) -> int:
    if value < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")
    return value
