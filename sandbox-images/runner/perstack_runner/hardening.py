"""What the process does to itself before it reads anything: not dumpable, a subreaper, small arenas; and what it sees.

Imported first, so it takes ctypes and os only. Sources: prctl(2), mallopt(3), landlock(7).
"""

import ctypes
import os
import sys
from typing import Final, NamedTuple

from perstack_runner import landlock

_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_NO_NEW_PRIVS: Final = 39
_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2
_STATUS: Final = (
    "Uid",
    "Gid",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
)
_MAX_VIEW_LINES: Final = 128

_libc = ctypes.CDLL(None, use_errno=True)


class Posture(NamedTuple):
    """What the kernel says about this process. `landlock_abi` is 0 when the kernel has none."""

    dumpable: bool
    no_new_privileges: bool
    subreaper: bool
    landlock_abi: int


def protect() -> Posture:
    """Make the process non-dumpable and a child subreaper, and read back what holds.

    A failure is not raised: the Hello carries what is true, and the daemon decides.
    """
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    subreaper = _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    return Posture(
        dumpable=_libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) != 0,
        no_new_privileges=_libc.prctl(_PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1,
        subreaper=subreaper,
        landlock_abi=landlock.abi(),
    )


def bound_arenas() -> None:
    """Give all threads two malloc arenas: each would keep one of its own. Call it before they start."""
    mallopt = getattr(_libc, "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


def return_memory() -> None:
    """Give freed heap pages back to the kernel; start-up alone leaves 3 MiB of them."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(0)


def self_view() -> tuple[str, ...]:
    """What the process sees of itself, one `KEY VALUE` per line: `status.Uid`, `mount./tmp`, `interface.lo`, `pid`.

    Where a file of /proc cannot be read the line says `unreadable ERRNO` instead of being left out.
    """
    lines = [f"pid {os.getpid()}", f"python {sys.version_info.major}.{sys.version_info.minor}"]
    for path, read in (
        ("/proc/self/status", _status),
        ("/proc/self/mountinfo", _mounts),
        ("/proc/self/net/dev", _interfaces),
    ):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - pathlib costs memory here
                lines += read(file.read(256 << 10))
        except OSError as error:
            lines.append(f"{path} unreadable {error.errno}")
    return tuple(lines[:_MAX_VIEW_LINES])


def _status(text: str) -> list[str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return [f"status.{name} {' '.join(value.split())}" for name, _, value in pairs if name in _STATUS]


def _mounts(text: str) -> list[str]:
    # mountinfo(5): id, parent, device, root, mount point, options, optional fields, "-", type, source, super options
    rows = (line.split(" - ", 1) for line in text.splitlines() if " - " in line)
    return [f"mount.{left.split()[4]} {left.split()[5]} {right.split()[0]}" for left, right in rows]


def _interfaces(text: str) -> list[str]:
    return [f"interface.{line.partition(':')[0].strip()} up" for line in text.splitlines()[2:] if ":" in line]
