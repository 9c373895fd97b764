"""Gives up everything that the proxy does not need, before the first byte of a sandbox is read.

Started as root it becomes the unprivileged ids that it was told; nothing brings privilege back: no capability is left
in any set, and no-new-privileges holds for what it might execute. A Landlock domain (where the kernel has it) leaves it
the files of name resolution, a system call filter what a proxy does. It keeps the host's network, which is its purpose.
"""

import ctypes
import os
import resource
import signal
from dataclasses import dataclass
from typing import Final

from perstack_egress import landlock, name_files, seccomp

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_DESCRIPTORS: Final = 65536
_ADDRESS_SPACE: Final = 4 << 30


@dataclass(frozen=True, slots=True)
class Confinement:
    """What holds now: the Landlock version (0: none), and which files of name resolution were opened to reading."""

    landlock: int
    files: name_files.Identities


def confine(uid: int, gid: int) -> Confinement:
    """Irrevocable, for all threads to come; there must be none yet. Import everything first: no module can be read
    any more afterwards.

    Raises:
        OSError: the kernel refused a step; the caller must not go on.
        ValueError: uid or gid is 0, or the process would stay root.
    """
    if uid < 1 or gid < 1:
        raise ValueError("uid and gid must not be 0: the proxy never works as root")
    os.umask(0o077)
    os.chdir("/")
    name_files.load_libraries()
    _bound_resources()
    if os.geteuid() == 0:
        _drop_bounding_set()
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if 0 in (*os.getresuid(), *os.getresgid()):
        raise ValueError("the process is still root")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    # After the ids: changing them clears it.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    files, version = name_files.identities(), landlock.abi()
    if version:
        landlock.restrict(version, name_files.FILES)
    seccomp.install()
    return Confinement(version, files)


def _bound_resources() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))


def _drop_bounding_set() -> None:
    capability = 0
    while (held := _library().prctl(_PR_CAPBSET_READ, capability, 0, 0, 0)) >= 0:  # EINVAL after the kernel's last one
        if held:
            _prctl(_PR_CAPBSET_DROP, capability)
        capability += 1


def _prctl(option: int, value: int) -> None:
    if _library().prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}, {value}): {os.strerror(code)}")


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
