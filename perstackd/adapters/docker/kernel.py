"""What the kernel says about a started container, read from the host's /proc and cgroup file systems.

Parsing is pure; `observe` alone reads. Nothing is run inside the container and no engine call is made. It blocks for
about a millisecond, so it belongs on a thread.
"""

import os
import re
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
CAPABILITY_SETS: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")

# How long the first process may still be the runtime's own, which has not yet put on the filter.
_EXEC_SECONDS: Final = 1.0
_EXEC_POLL_SECONDS: Final = 0.002


@dataclass(frozen=True, slots=True)
class ProcessView:
    """One process of a container: /proc/PID/status."""

    pid: int
    name: str
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    capabilities: Mapping[str, int]
    no_new_privileges: bool
    seccomp: int


@dataclass(frozen=True, slots=True)
class MountView:
    """One line of mountinfo. `root` is the directory of the file system that is mounted at `target`."""

    root: str
    target: str
    options: frozenset[str]
    propagation: tuple[str, ...]
    kind: str
    source: str
    super_options: frozenset[str]


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """The limits in force; None is no limit, or a file that is not there. Sizes are bytes.

    `share` is cpu.shares on version 1 and cpu.weight on version 2.
    """

    version: int
    path: str
    memory: int | None
    memory_and_swap: int | None
    pids: int | None
    cpus: float | None
    share: int | None


@dataclass(frozen=True, slots=True)
class KernelView:
    """All that the posture is compared with. `lsm` holds the label of each security module that the host has."""

    processes: tuple[ProcessView, ...]
    mounts: tuple[MountView, ...]
    limits: Mapping[str, tuple[str, str]]
    interfaces: tuple[str, ...]
    namespaces: Mapping[str, str]
    host_namespaces: Mapping[str, str]
    cgroup: CgroupLimits
    devices: tuple[str, ...]
    host_paths: frozenset[str]
    lsm: Mapping[str, str]


# --- parsing --------------------------------------------------------------------------------------------------------
def parse_status(pid: int, text: str) -> ProcessView:
    """A /proc/PID/status. Raises KeyError when a line is missing: no default is safe."""
    fields = {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    numbers = {key: tuple(int(word) for word in fields[key].split()) for key in ("Uid", "Gid", "Groups")}
    return ProcessView(
        pid=pid,
        name=fields["Name"],
        uids=numbers["Uid"],
        gids=numbers["Gid"],
        groups=numbers["Groups"],
        capabilities={name: int(fields[name], 16) for name in CAPABILITY_SETS},
        no_new_privileges=fields["NoNewPrivs"] == "1",
        seccomp=int(fields["Seccomp"]),
    )


def parse_mountinfo(text: str) -> tuple[MountView, ...]:
    """A /proc/PID/mountinfo, in the order of mounting; see proc_pid_mountinfo(5)."""
    return tuple(_mount(line) for line in text.splitlines() if line)


def _mount(line: str) -> MountView:
    before, _, after = line.partition(" - ")
    _id, _parent, _device, root, target, options, *propagation = before.split(" ")
    kind, source, super_options = after.split(" ")[:3]
    return MountView(
        root=_unescape(root),
        target=_unescape(target),
        options=frozenset(options.split(",")),
        propagation=tuple(propagation),
        kind=kind,
        source=_unescape(source),
        super_options=frozenset(super_options.split(",")),
    )


# A space, tab, newline or backslash in a path.
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text) if "\\" in text else text


def parse_limits(text: str) -> dict[str, tuple[str, str]]:
    """A /proc/PID/limits: soft and hard by name, such as `Max open files`."""
    columns = (re.split(r"\s{2,}", line.strip()) for line in text.splitlines()[1:])
    return {words[0]: (words[1], words[2]) for words in columns if len(words) >= 3}


def parse_interfaces(text: str) -> tuple[str, ...]:
    """A /proc/PID/net/dev: the names of the network interfaces."""
    return tuple(line.partition(":")[0].strip() for line in text.splitlines()[2:] if ":" in line)


def parse_cgroup(text: str) -> dict[str, str]:
    """A /proc/PID/cgroup: path by controller; the empty name is the unified hierarchy."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _number, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def cgroup_directories(paths: Mapping[str, str], mounts: Iterable[MountView]) -> dict[str, str]:
    """Host directory by controller, the unified one under the empty name; `mounts` are the host's."""
    found = {}
    for mount in mounts:
        match mount.kind:
            case "cgroup":
                names = [name for name in paths if name and name in mount.super_options]
            case "cgroup2":
                names = [""] if "" in paths else []
            case _:
                continue
        for name in names:
            below = paths[name].removeprefix(mount.root.rstrip("/"))
            found[name] = f"{mount.target}{below}".rstrip("/")
    return found


def limits_v1(path: str, files: Mapping[str, str]) -> CgroupLimits:
    """The limits from the files of version 1, by their names."""
    quota, period = _number(files.get("cpu.cfs_quota_us")), _number(files.get("cpu.cfs_period_us"))
    return CgroupLimits(
        version=1,
        path=path,
        memory=_number(files.get("memory.limit_in_bytes")),
        memory_and_swap=_number(files.get("memory.memsw.limit_in_bytes")),
        pids=_number(files.get("pids.max")),
        cpus=None if quota is None or not period else quota / period,
        share=_number(files.get("cpu.shares")),
    )


def limits_v2(path: str, files: Mapping[str, str]) -> CgroupLimits:
    """The limits from the files of version 2, by their names. A kernel that does not account swap has no swap file."""
    memory, swap = _number(files.get("memory.max")), _number(files.get("memory.swap.max"))
    quota, _, period = files.get("cpu.max", "max").strip().partition(" ")
    limit = _number(quota)
    return CgroupLimits(
        version=2,
        path=path,
        memory=memory,
        memory_and_swap=None if memory is None or swap is None else memory + swap,
        pids=_number(files.get("pids.max")),
        cpus=None if limit is None else limit / int(period or 100_000),
        share=_number(files.get("cpu.weight")),
    )


# Version 1 writes "no limit" as the largest multiple of a page.
_UNLIMITED: Final = 1 << 62


def _number(text: str | None) -> int | None:
    if text is None or not text.strip().lstrip("-").isdigit():
        return None
    number = int(text)
    return number if 0 <= number < _UNLIMITED else None


# --- reading --------------------------------------------------------------------------------------------------------
_FILES: Final = {
    "memory": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max", "memory.swap.max"),
    "pids": ("pids.max",),
    "cpu": ("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares", "cpu.max", "cpu.weight"),
}


def observe(pid: int, host_paths: Iterable[str], proc: Path = Path("/proc")) -> KernelView:
    """Read the state of the container whose first process is `pid`; which of `host_paths` exist is told, too.

    Raises:
        OSError: the process ended, or this process may not look.
    """
    top = proc / str(pid)
    _await_exec(top)
    directories = cgroup_directories(
        parse_cgroup((top / "cgroup").read_text()), parse_mountinfo((proc / "self/mountinfo").read_text())
    )
    return KernelView(
        processes=_processes(proc, pid, directories),
        mounts=parse_mountinfo((top / "mountinfo").read_text()),
        limits=parse_limits((top / "limits").read_text()),
        interfaces=parse_interfaces((top / "net/dev").read_text()),
        namespaces=_namespaces(top),
        host_namespaces=_namespaces(proc / "self"),
        cgroup=read_cgroup(directories),
        devices=_devices(top / "root/dev"),
        host_paths=frozenset(path for path in host_paths if Path(path).exists()),
        lsm=_lsm(top),
    )


def _await_exec(top: Path) -> None:
    # The engine answers a start when the runtime's own process is about to become the container's, filter last.
    deadline = time.monotonic() + _EXEC_SECONDS
    while (top / "comm").read_text().startswith("runc:") and time.monotonic() < deadline:
        time.sleep(_EXEC_POLL_SECONDS)


def _processes(proc: Path, first: int, directories: Mapping[str, str]) -> tuple[ProcessView, ...]:
    directory = directories.get("pids", directories.get(""))
    listed = _read(f"{directory}/cgroup.procs") if directory else None
    others = {int(line) for line in (listed or "").split()} - {first}
    found = [parse_status(first, (proc / str(first) / "status").read_text())]
    for pid in sorted(others):
        text = _read(str(proc / str(pid) / "status"))
        if text:  # a process that ended meanwhile has none
            found.append(parse_status(pid, text))
    return tuple(found)


def read_cgroup(directories: Mapping[str, str]) -> CgroupLimits:
    """The limits of the container whose host directories these are, by controller; the empty name is version 2's."""
    version = 1 if "memory" in directories else 2
    files: dict[str, str] = {}
    for controller, names in _FILES.items():
        directory = directories.get(controller, directories.get(""))
        files |= {name: text for name in names if directory and (text := _read(f"{directory}/{name}")) is not None}
    path = directories.get("memory", directories.get("", ""))
    return limits_v1(path, files) if version == 1 else limits_v2(path, files)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _namespaces(top: Path) -> dict[str, str]:
    return {name: str((top / "ns" / name).readlink()) for name in NAMESPACES}


def _devices(directory: Path) -> tuple[str, ...]:
    # Names only, never followed: what is in there is the container's.
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
                found.append(entry.name)
    return tuple(sorted(found))


def _lsm(top: Path) -> dict[str, str]:
    found = {}
    if (_read("/sys/module/apparmor/parameters/enabled") or "N").startswith("Y"):
        label = _read(str(top / "attr/apparmor/current")) or _read(str(top / "attr/current"))
        found["apparmor"] = (label or "").strip("\n\0")
    if Path("/sys/fs/selinux/enforce").exists():
        found["selinux"] = (_read(str(top / "attr/current")) or "").strip("\n\0")
    return found
