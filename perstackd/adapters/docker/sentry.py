"""What the kernel says about a gVisor sandbox: its sentry, its gofer and the stubs of its programs, from the host.

The container's first process is the sentry; inside, gVisor's own kernel answers, which the runner reports. Blocking, a
millisecond or two, so it belongs on a thread. Parsing is pure.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perstackd.adapters.docker.kernel import (
    CgroupLimits,
    MountView,
    ProcessView,
    cgroup_directories,
    parse_cgroup,
    parse_interfaces,
    parse_mountinfo,
    parse_status,
    read_cgroup,
)

NAMESPACES: Final = ("ipc", "mnt", "net", "user", "uts")


@dataclass(frozen=True, slots=True)
class SentryView:
    """All that the posture of a gVisor sandbox is compared with, but for what the runner sees inside.

    `arguments` are the sentry's command line. `gofer_mounts` are what the process sees that opens files for it.
    """

    arguments: tuple[str, ...]
    processes: tuple[ProcessView, ...]
    mounts: tuple[MountView, ...]
    gofer_mounts: tuple[MountView, ...]
    interfaces: tuple[str, ...]
    namespaces: Mapping[str, str]
    host_namespaces: Mapping[str, str]
    cgroup: CgroupLimits


def observe_sentry(pid: int, proc: Path = Path("/proc")) -> SentryView:
    """Read the state of the sandbox whose sentry is `pid`.

    Raises:
        OSError: the sentry ended, or this process may not look.
    """
    top = proc / str(pid)
    directories = cgroup_directories(
        parse_cgroup((top / "cgroup").read_text()), parse_mountinfo((proc / "self/mountinfo").read_text())
    )
    processes, gofer_mounts = [parse_status(pid, (top / "status").read_text())], tuple[MountView, ...]()
    for other in sorted(_members(directories) - {pid}):
        try:
            processes.append(parse_status(other, (proc / str(other) / "status").read_text()))
            if _words(proc / str(other))[:1] == ("runsc-gofer",):
                gofer_mounts = parse_mountinfo((proc / str(other) / "mountinfo").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return SentryView(
        arguments=_words(top),
        processes=tuple(processes),
        mounts=parse_mountinfo((top / "mountinfo").read_text()),
        gofer_mounts=gofer_mounts,
        interfaces=parse_interfaces((top / "net/dev").read_text()),
        namespaces=_namespaces(top),
        host_namespaces=_namespaces(proc / "self"),
        cgroup=read_cgroup(directories),
    )


def _members(directories: Mapping[str, str]) -> set[int]:
    directory = directories.get("pids", directories.get(""))
    return {int(line) for line in Path(directory, "cgroup.procs").read_text().split()} if directory else set()


def _words(top: Path) -> tuple[str, ...]:
    return tuple((top / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0"))


def _namespaces(top: Path) -> dict[str, str]:
    return {name: os.readlink(top / "ns" / name) for name in NAMESPACES}  # noqa: PTH115 - magic links
