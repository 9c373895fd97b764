"""What a runner says that it sees of itself, where the host cannot look: inside a gVisor sandbox. Pure.

The lines are those of the runner's `self_view`: `status.Uid 1 1 1 1`, `mount./tmp rw tmpfs`, `interface.lo up`. A
runner speaks before any tenant's data is inside, from an image of ours; later it could lie, and is not asked again.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from perstackd.domain.sandbox import PostureCheck

MAX_LINES: Final = 128
MAX_LINE: Final = 512
_SETS: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd")
_READ_ONLY: Final = ("/", "/gw", "/etc/passwd", "/etc/group")
_TMPFS: Final = ("/tmp", "/run", "/run/log", "/home/perstack")  # noqa: S108  mount points inside
_SYSTEM: Final = frozenset(
    {"/mnt", "/proc", "/dev", "/dev/pts", "/dev/shm", "/sys", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}  # noqa: S108
    | {"/etc/ssl/certs/perstack-ca.pem"}
)


def guest_checks(view: Iterable[str], uid: int) -> Iterator[PostureCheck]:
    """The guest's side of the posture. What a line is missing for differs."""
    lines = [line.partition(" ") for line in view]
    status = {name.removeprefix("status."): value for name, _, value in lines if name.startswith("status.")}
    mounts = {name.removeprefix("mount."): value.split() for name, _, value in lines if name.startswith("mount.")}
    own = " ".join([str(uid)] * 4)
    yield _same("guest uids", own, status.get("Uid", "not told"))
    yield _same("guest gids", own, status.get("Gid", "not told"))
    held = [f"{name}={status.get(name, 'not told')}" for name in _SETS if status.get(name, "x").strip("0")]
    yield _same("guest capabilities", "none", ", ".join(held) or "none", "5.3")
    yield _same("guest seccomp", "2", status.get("Seccomp", "not told"), "5.21")
    for path in _READ_ONLY:
        yield _same(f"guest {path}", "ro", _access(mounts.get(path)), "5.12" if path == "/" else "")
    for path in _TMPFS:
        yield _same(f"guest {path}", "rw tmpfs", f"{_access(mounts.get(path))} {(mounts.get(path) or ['-'])[-1]}")
    known = {*_READ_ONLY, *_TMPFS, *_SYSTEM}
    strangers = sorted(path for path in mounts if path not in known and not path.startswith("/sys/fs/cgroup"))
    yield _same("guest other mounts", "none", ", ".join(strangers) or "none", "5.5")
    interfaces = sorted(name.removeprefix("interface.") for name, _, _ in lines if name.startswith("interface."))
    yield _same("guest interfaces", "lo", ", ".join(interfaces) or "none", "5.29")


def _access(mount: list[str] | None) -> str:
    if not mount:
        return "not mounted"
    return "ro" if "ro" in mount[0].split(",") else "rw"


def _same(name: str, expected: str, actual: str, cis: str = "") -> PostureCheck:
    return PostureCheck(name, expected, actual[:MAX_LINE], ok=expected == actual, cis=cis, source="runner")
