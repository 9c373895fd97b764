"""A Landlock domain for each process that the runner starts, so that siblings cannot reach into each other.

A domain belongs to a thread's credentials and passes to what that thread starts. So a short-lived thread restricts
itself and then starts the child: no wrapper program, no code between fork and exec, about 0.1 ms (children.py).
Source: landlock(7), include/uapi/linux/landlock.h.
"""

import ctypes
import os
import platform
from collections.abc import Mapping
from typing import Final

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION_FLAG: Final = 1
_ACCESS_REFER: Final = 1 << 13
_ACCESS_READ_DIRECTORY: Final = 1 << 3
_ACCESS_FILES: Final = (1 << 14) - 1
"""All that the first two versions know: execute, write, read, remove, make each kind of file, move."""
_ACCESS_TRUNCATE: Final = 1 << 14
_FIRST_WITH_TRUNCATE: Final = 3
_SCOPE_ABSTRACT_SOCKET: Final = 1 << 0
_SCOPE_SIGNAL: Final = 1 << 1
_RULE_PATH_BENEATH: Final = 1
_FIRST_WITH_REFER: Final = 2
_FIRST_WITH_SCOPES: Final = 6
_PR_SET_NO_NEW_PRIVS: Final = 38

_libc = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """The kernel's Landlock version, 0 when it has none or the machine's call numbers are not known here."""
    if platform.machine() not in ("x86_64", "aarch64", "riscv64"):
        return 0
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION_FLAG))))


def restrict_thread(version: int, hidden: str = "") -> bool:
    """Put the calling thread, and all that it starts from now on, into a new domain.

    Files stay reachable as before, but for those below the directory of the root that is `hidden`: nothing below it can
    be opened but for listing, changed or run, whatever is mounted there later.
    Returns False below ABI 2, where any domain forbids to move files between directories. From 6 on signals and
    abstract sockets are scoped too; from 2 on it is /proc and ptrace. Cannot be undone: use a thread that ends.

    Raises:
        OSError: the kernel refused; nothing may be started from this thread then.
    """
    if version < _FIRST_WITH_REFER:
        return False
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    ruleset = _ruleset(version, hidden)
    try:
        _check(_libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint(0)), "landlock_restrict_self")
    finally:
        os.close(ruleset)
    return True


def _ruleset(version: int, hidden: str) -> int:
    scopes = _SCOPE_ABSTRACT_SOCKET | _SCOPE_SIGNAL if version >= _FIRST_WITH_SCOPES else 0
    if hidden:
        truncate = _ACCESS_TRUNCATE if version >= _FIRST_WITH_TRUNCATE else 0
        return _hiding_ruleset(_Ruleset(_ACCESS_FILES | truncate, 0, scopes), hidden)
    return _scoped_ruleset(scopes) if scopes else _refer_ruleset()


def _scoped_ruleset(scopes: int) -> int:
    attributes = _Ruleset(0, 0, scopes)
    return _create(attributes, ctypes.sizeof(attributes))


def _refer_ruleset() -> int:
    # A ruleset has to handle something; moving between directories is what every domain denies unless it is allowed.
    return _with_rules(_create(_Ruleset(_ACCESS_REFER, 0, 0), 8), {"/": _ACCESS_REFER})


def _hiding_ruleset(attributes: _Ruleset, hidden: str) -> int:
    """Allow-list: everything beside `hidden`. Links of the root lead to what is allowed or hidden by itself."""
    ruleset = _create(attributes, ctypes.sizeof(attributes) if attributes.scoped else 8)
    with os.scandir("/") as entries:
        kept = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False) and entry.path != hidden]
    return _with_rules(ruleset, {"/": _ACCESS_READ_DIRECTORY, **dict.fromkeys(kept, int(attributes.fs))})


def _with_rules(ruleset: int, rules: Mapping[str, int]) -> int:
    try:
        for path, allowed in rules.items():
            _add_rule(ruleset, path, allowed)
    except OSError:
        os.close(ruleset)
        raise
    return ruleset


def _add_rule(ruleset: int, path: str, allowed: int) -> None:
    directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(allowed, directory)
        _check(
            _libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), ctypes.c_uint(0)),
            "landlock_add_rule",
        )
    finally:
        os.close(directory)


def _create(attributes: _Ruleset, size: int) -> int:
    return _check(
        _libc.syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint(0)),
        "landlock_create_ruleset",
    )


def _check(value: int, call: str) -> int:
    if value < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return value
