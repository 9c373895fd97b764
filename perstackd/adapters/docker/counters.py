"""The counters port on this host: files of the containers' cgroups, of either version. Where they are is found by their
names once, and then remembered as long as somebody asks.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

from perstackd.adapters.docker.cgroups import container_cgroups
from perstackd.adapters.workspaces.mountinfo import MountPoint, mounts
from perstackd.domain.counters import Counters, parse
from perstackd.domain.traces import container_of

_FILES: Final = (
    "memory.oom_control",
    "memory.failcnt",
    "memory.memsw.failcnt",
    "memory.events",
    "pids.events",
    "pids.current",
)
_CONTROLLERS: Final = frozenset({"memory", "pids"})


def hierarchies() -> tuple[MountPoint, ...]:
    """Where the kernel counts what is asked for."""
    return tuple(mount for mount in mounts() if mount.file_system == "cgroup2" or _counts(mount))


def _counts(mount: MountPoint) -> bool:
    names = mount.path.rpartition("/")[2].split(",")
    return mount.file_system == "cgroup" and not _CONTROLLERS.isdisjoint(names)


class HostCounters:
    """Implements `CounterReader`. One call at a time; each is a few small files of each container."""

    def __init__(self, found: Callable[[], Iterable[MountPoint]] = hierarchies) -> None:
        self._hierarchies = found
        self._directories: dict[str, tuple[str, ...]] = {}
        self._turn = asyncio.Lock()

    async def read(self, container_ids: Collection[str]) -> Mapping[str, Counters]:
        async with self._turn:
            return await asyncio.to_thread(self._read, tuple(container_ids))

    def _read(self, container_ids: tuple[str, ...]) -> dict[str, Counters]:
        self._find(container_ids)
        read = {each: parse(_files(self._directories.get(each, ()))) for each in container_ids}
        return {each: counters for each, counters in read.items() if counters is not None}

    def _find(self, container_ids: tuple[str, ...]) -> None:
        known = {each: places for each, places in self._directories.items() if each in container_ids}
        if missing := {*container_ids} - known.keys():
            found: dict[str, list[str]] = {}
            for path in container_cgroups(tuple(self._hierarchies())):
                found.setdefault(container_of(path.rpartition("/")[2]), []).append(path)
            known |= {each: tuple(found[each]) for each in missing if each in found}
        self._directories = known


def _files(directories: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for directory in directories:
        for name in _FILES:
            try:
                found[name] = Path(directory, name).read_text()
            except OSError:
                continue  # of another controller, or gone with its container
    return found
