"""Memory and CPU time of processes, and of a sandbox's cgroup, as the host's kernel tells them. Linux only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.failure import MeasurementError

_CGROUPS: Final = Path("/sys/fs/cgroup")
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class CgroupMemory:
    """MiB. `working_set` is what `docker stats` shows: all but the page cache that can go at once."""

    working_set: float
    anonymous: float
    total: float


def rss_mib(pid: int) -> float:
    """Resident memory. Raises ProcessLookupError or FileNotFoundError when it is gone."""
    return _kb(Path(f"/proc/{pid}/status").read_text(), "VmRSS") / 1024


def pss_mib(pid: int) -> float:
    """Resident memory, with shared pages divided among those that share them."""
    return _kb(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss") / 1024


def parent(pid: int) -> int:
    """The parent's pid."""
    return int(_field(Path(f"/proc/{pid}/status").read_text(), "PPid"))


def children(pid: int) -> tuple[int, ...]:
    """Children of all its threads."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return tuple(int(child) for file in found for child in file.read_text().split())


def cpu_seconds(pid: int) -> float:
    """CPU time of its live threads so far, user and system, without children."""
    # Nanoseconds of each thread; /proc/PID/stat counts in ticks and misses what is shorter.
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9


def name(pid: int) -> str:
    """The program, as far as it can be told: the last word of the first two of its command line."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return " ".join(Path(word).name for word in words[:3] if word)


def cgroup_memory(pid: int) -> CgroupMemory:
    """Of the cgroup that the process is in, version 1 or 2. Raises MeasurementError when it has none to be seen."""
    directory, version = _memory_directory(Path(f"/proc/{pid}/cgroup").read_text())
    total = directory / ("memory.current" if version == 2 else "memory.usage_in_bytes")
    if not total.is_file():
        raise MeasurementError(f"{total} is not there: the memory cgroup of process {pid} cannot be seen from here")
    rows = (line.split() for line in (directory / "memory.stat").read_text().splitlines())
    stat = {key: int(value) for key, value in rows}
    used = int(total.read_text())
    inactive, anonymous = ("inactive_file", "anon") if version == 2 else ("total_inactive_file", "total_rss")
    return CgroupMemory((used - stat[inactive]) / _MIB, stat[anonymous] / _MIB, used / _MIB)


def cgroup_pids(pid: int) -> tuple[int, ...]:
    """Every process in the cgroup of this one."""
    directory, _version = _memory_directory(Path(f"/proc/{pid}/cgroup").read_text())
    return tuple(map(int, (directory / "cgroup.procs").read_text().split()))


def _memory_directory(text: str) -> tuple[Path, int]:
    unified = ""
    for line in text.splitlines():
        _number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _CGROUPS / "memory" / path.lstrip("/"), 1
        if not controllers:
            unified = path
    return _CGROUPS / unified.lstrip("/"), 2


def _kb(text: str, key: str) -> int:
    return int(_field(text, key).split()[0])


def _field(text: str, key: str) -> str:
    return next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(f"{key}:"))
