"""The cgroups of containers, of both versions and both drivers of the engine, and how one is emptied and removed.

Blocking. Where they are is not asked of the engine, which has forgotten them: they are looked for by their names.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from perstackd.adapters.docker.shims import killed
from perstackd.adapters.workspaces.mountinfo import MountPoint
from perstackd.domain.traces import container_of

_DEPTH: Final = 3  # /docker/ID, /system.slice/docker-ID.scope, /a.slice/a-b.slice/docker-ID.scope
_MOST: Final = 4096  # directories looked into, of one hierarchy
_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.002


def container_cgroups(mounts: tuple[MountPoint, ...]) -> tuple[str, ...]:
    """Paths of all containers' cgroups, whoever made them, in every mounted hierarchy."""
    roots = dict.fromkeys(mount.path for mount in mounts if mount.file_system in ("cgroup", "cgroup2"))
    return tuple(path for root in roots for path in _search(root))


def _search(root: str) -> Iterator[str]:
    level, looked = [root], 0
    for _ in range(_DEPTH):
        below: list[str] = []
        for directory in level:
            looked += 1
            if looked > _MOST:
                return
            for entry in _directories(directory):
                if container_of(entry.rpartition("/")[2]):
                    yield entry
                else:
                    below.append(entry)
        level = below


def end_cgroups(paths: tuple[str, ...], container_id: str) -> tuple[str, ...]:
    """Kill all processes in them; returns which are not empty after a few seconds."""
    for path in paths:
        _thaw(Path(path))
    deadline = time.monotonic() + _SECONDS
    while populated := tuple(path for path in paths if any(_members(path))):
        if time.monotonic() > deadline:
            return populated
        for pid in {pid for path in populated for pid in _members(path)}:
            _kill(pid, container_id)
        time.sleep(_PAUSE_SECONDS)
    return ()


def remove_cgroup(path: str) -> str:
    """Remove an empty one with all below it; returns why it stays, empty when it is gone. The kernel refuses while a
    process is in it, and a while longer.
    """
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            for directory, _, _ in os.walk(path, topdown=False):
                with suppress(FileNotFoundError):
                    os.rmdir(directory)  # noqa: PTH106  os.walk gives text
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                return f"{path}: {error.strerror}"
            time.sleep(_PAUSE_SECONDS)
        else:
            return ""


def _members(path: str) -> Iterator[int]:
    """Processes in the cgroup and below; those of other process namespaces are 0, and cannot be reached."""
    for directory, _, _ in os.walk(path):
        try:
            text = Path(directory, "cgroup.procs").read_text()
        except OSError:
            continue  # it was removed meanwhile, or is threaded (EOPNOTSUPP), then its parent lists them
        yield from (int(word) for word in text.split() if word != "0")


def _kill(pid: int, container_id: str) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _is_in(pid, container_id):
            killed(descriptor, 0)
    finally:
        os.close(descriptor)


def _is_in(pid: int, container_id: str) -> bool:
    """Asked after its descriptor was opened: then it is said of that very process, or it has ended."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return False
    names = (name for line in lines for name in line.partition(":")[2].partition(":")[2].split("/"))
    return any(container_of(name) == container_id for name in names)


def _thaw(path: Path) -> None:
    """A frozen process takes no signal on version 1."""
    with suppress(OSError):  # only the freezer's hierarchy has the file
        if (path / "freezer.state").exists():
            (path / "freezer.state").write_text("THAWED")


def _directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
