"""The machine: who this process is, uids, room on disks and in memory, programs, the model's key."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from perstackd.adapters.doctor.subject import Subject
from perstackd.adapters.room import HostRoom
from perstackd.domain.checkup import Finding, error, good, warning

_CAPABILITIES: Final = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "SETFCAP": 31,
}  # linux/capability.h
_MAX_SOCKET: Final = 107
_IDLE_BYTES: Final = 80 << 20  # of a warm sandbox (docs/design/targets.md), rounded up
_GIB: Final = 1 << 30
_PROGRAM_SECONDS: Final = 20.0


def examine(subject: Subject) -> Iterator[Finding]:
    """All that needs neither the engine nor a mount."""
    yield _rights()
    yield _namespace()
    yield from _sockets(subject)
    yield from _uids(subject)
    yield from _disks(subject)
    yield _memory(subject)
    yield _watermarks(subject)
    yield _egress()
    if subject.named_bytes:
        yield _loops()
    if subject.provider:
        yield _key(subject)


def _rights() -> Finding:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    held = int(status["CapEff"], 16)
    missing = [name for name, bit in _CAPABILITIES.items() if not held >> bit & 1]
    if os.geteuid() != 0:
        return error("host", "rights", f"uid {os.geteuid()}", "perstackd and its doctor run as root: use sudo")
    if missing:
        return error("host", "rights", f"root without {', '.join(missing)}", "give the service these capabilities")
    return good("host", "rights", "root with all capabilities that are needed")


def _namespace() -> Finding:
    try:
        own, first = (os.readlink(f"/proc/{process}/ns/mnt") for process in ("self", "1"))  # noqa: PTH115 - magic links
    except OSError as failure:
        return good(
            "host", "mount namespace", f"cannot be told ({failure.strerror}); late binding, below, depends on it"
        )
    if own != first:
        remedy = "the engine must be in the same one: no PrivateTmp, ProtectSystem and the like in the unit"
        return warning("host", "mount namespace", "not that of process 1", remedy)
    return good("host", "mount namespace", "the machine's")


def _sockets(subject: Subject) -> Iterator[Finding]:
    paths = (subject.socket, subject.runtime / "s" / ("x" * 26) / "gw" / "runner.sock")
    longest = max(len(str(path).encode()) for path in paths)
    if longest > _MAX_SOCKET:
        yield error(
            "host",
            "socket paths",
            f"{longest} bytes",
            f"at most {_MAX_SOCKET} work: choose a shorter runtime_directory",
        )
    else:
        yield good("host", "socket paths", f"{longest} of {_MAX_SOCKET} bytes")


# --- uids -----------------------------------------------------------------------------------------------------------
def _uids(subject: Subject) -> Iterator[Finding]:
    low, high = subject.sandbox_uids
    accounts = [entry for entry in pwd.getpwall() if low <= entry.pw_uid <= high]
    if accounts:
        names = ", ".join(f"{entry.pw_name} ({entry.pw_uid})" for entry in accounts[:5])
        yield error(
            "uids", "sandbox_uids", f"{low}-{high} has accounts: {names}", "choose a range that no account is in"
        )
    else:
        yield good("uids", "sandbox_uids", f"{low}-{high}, no account in it")
    for key, uid in subject.uids.items():
        owner = next((entry.pw_name for entry in pwd.getpwall() if entry.pw_uid == uid), "")
        if owner and owner != "nobody":
            yield error("uids", key, f"{uid} is the account {owner}", f"choose a uid of no account for {key}")
        else:
            yield good("uids", key, f"{uid}{', nobody' if owner else ''}")
    yield from _subordinate(low, high)


def _subordinate(low: int, high: int) -> Iterator[Finding]:
    try:
        lines = Path("/etc/subuid").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        name, _, numbers = line.partition(":")
        first, _, count = numbers.partition(":")
        if first.isdigit() and count.isdigit() and int(first) <= high and int(first) + int(count) > low:
            found = f"{name} may use {first}-{int(first) + int(count) - 1} for containers of its own"
            yield warning("uids", "/etc/subuid", found, "choose sandbox_uids beside it, or change /etc/subuid")
            return
    yield good("uids", "/etc/subuid", "no range meets sandbox_uids")


# --- room -----------------------------------------------------------------------------------------------------------
def _disks(subject: Subject) -> Iterator[Finding]:
    for name, wanted in (("state_directory", subject.state), ("runtime_directory", subject.runtime)):
        path = next(each for each in (wanted, *wanted.parents) if each.exists())
        seen = os.statvfs(path)
        free, part = seen.f_bavail * seen.f_frsize, seen.f_bavail / max(1, seen.f_blocks)
        inodes = seen.f_favail / seen.f_files if seen.f_files else 1.0
        found = f"{path}: {free / _GIB:.1f} GiB ({part:.0%}) free, {inodes:.0%} of inodes"
        least = _GIB if name == "state_directory" else _GIB // 64
        if free < least or inodes < 0.01:
            yield error("room", name, found, "free space or inodes: jobs cannot be written down without")
        elif (part < 0.1 and free < 10 * _GIB) or inodes < 0.1:
            yield warning("room", name, found, "it fills up: delete old jobs (perstackctl job rm), or enlarge the disk")
        else:
            yield good("room", name, found)


def _memory(subject: Subject) -> Finding:
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    amounts = {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if len(words) > 1}
    total, available = amounts["MemTotal"], amounts["MemAvailable"]
    idle = sum(template.min_idle for template in subject.templates) * _IDLE_BYTES
    most = sum(template.max * template.memory for template in subject.templates)
    found = f"{available / _GIB:.1f} of {total / _GIB:.1f} GiB free; sandboxes may take {most / _GIB:.1f} GiB at most"
    if available < idle + (256 << 20):
        return error(
            "room", "memory", found, f"idle sandboxes alone take {idle >> 20} MiB: lower min_idle, or add memory"
        )
    if most > total:
        return warning(
            "room", "memory", found, "when all work at once the kernel kills some: lower templates' max or memory"
        )
    return good("room", "memory", found)


def _watermarks(subject: Subject) -> Finding:
    """What the pool itself compares, with the daemon's own code; state may be a directory that is still to be made."""
    state = next(each for each in (subject.state, *subject.state.parents) if each.exists())
    lacking = HostRoom(subject.min_free_memory, subject.min_free_disk, (state,)).lacking()
    if lacking:
        remedy = "no idle sandboxes are started meanwhile: free some, or lower pool.min_free_memory or min_free_disk"
        return warning("room", "watermarks", lacking, remedy)
    marks = f"{subject.min_free_memory >> 20} MiB of memory, {subject.min_free_disk >> 20} MiB of disk"
    return good("room", "watermarks", f"above both: {marks}")


# --- programs -------------------------------------------------------------------------------------------------------
def _egress() -> Finding:
    command = [sys.executable, "-I", "-m", "perstack_egress", "--help"]
    try:
        done = subprocess.run(  # noqa: S603 - our own program, no shell
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROGRAM_SECONDS, check=False, cwd="/"
        )
    except PermissionError as failure:
        return error("programs", "perstack-egress", str(failure), "run the doctor as root")
    except (OSError, subprocess.TimeoutExpired) as failure:
        return error("programs", "perstack-egress", str(failure), "install perstackd anew")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        return error(
            "programs", "perstack-egress", f"exit {done.returncode}: {said[0][:200]}", "install perstackd anew"
        )
    return good("programs", "perstack-egress", "starts")


def _loops() -> Finding:
    mkfs = shutil.which("mkfs.ext4", path="/usr/sbin:/sbin:/usr/bin:/bin")
    missing = [] if mkfs else ["mkfs.ext4 (package e2fsprogs)"]
    missing += [] if Path("/dev/loop-control").exists() else ["/dev/loop-control (modprobe loop)"]
    if missing:
        remedy = "named workspaces with a size need it; or set workspaces.named_bytes = 0"
        return error("programs", "sized workspaces", f"missing: {', '.join(missing)}", remedy)
    return good("programs", "sized workspaces", f"{mkfs} and loop devices")


def _key(subject: Subject) -> Finding:
    """Of the name only; nobody is shown a value."""
    name = subject.keys.get(subject.provider)
    if name is None:
        return good("model", subject.provider, "needs no key")
    if os.environ.get(name):
        return good("model", subject.provider, f"{name} is set here")
    remedy = (
        f"the service needs it: EnvironmentFile= in a drop-in, or perstackctl secret put --provider {subject.provider}"
    )
    return warning("model", subject.provider, f"{name} is not set in this environment", remedy)
