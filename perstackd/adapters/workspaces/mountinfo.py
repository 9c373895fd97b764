"""What is mounted where in this process's mount namespace, see proc_pid_mountinfo(5)."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line: `options` are those of the mount, not of the file system; `shared` when it is in a peer group."""

    id: int
    path: str
    file_system: str
    options: frozenset[str]
    shared: bool


def parse(text: bytes) -> tuple[MountPoint, ...]:
    """The mounts of a mountinfo file, in its order."""
    return tuple(_mount_point(line) for line in text.splitlines() if line)


def mounts() -> tuple[MountPoint, ...]:
    """All mounts that this process sees."""
    return parse(_MOUNTINFO.read_bytes())


def mounts_at_or_below(directory: str) -> tuple[MountPoint, ...]:
    """Mounts at `directory` or below it, the deepest first."""
    inside = directory.rstrip("/") + "/"
    found = [mount for mount in mounts() if mount.path == directory or mount.path.startswith(inside)]
    return tuple(sorted(found, key=lambda mount: -mount.path.count("/")))


def file_system_of(descriptor: int) -> str:
    """The type of the file system that an open file is on, for messages; "unknown" when its mount is not listed."""
    text = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    wanted = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("mnt_id:"))
    return next((mount.file_system for mount in mounts() if mount.id == wanted), "unknown")


def _mount_point(line: bytes) -> MountPoint:
    left, _, right = line.partition(b" - ")
    fields = left.split(b" ")
    return MountPoint(
        id=int(fields[0]),
        path=_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), fields[4]).decode(errors="surrogateescape"),
        file_system=right.split(b" ")[0].decode(),
        options=frozenset(fields[5].decode().split(",")),
        shared=any(tag.startswith(b"shared:") for tag in fields[6:]),
    )
