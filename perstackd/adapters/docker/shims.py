"""The engine's shims as the host's /proc shows them, and how one is ended. Blocking.

A process is named by its number and its start time together, and signalled through a descriptor that was opened before
it was looked at again: a number that another process got meanwhile is never signalled.
"""

import json
import os
import select
import signal
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

from perstackd.domain.traces import Shim

_PROC: Final = Path("/proc")
_COMM: Final = "containerd-shim"  # what the kernel keeps of the names of all shims (TASK_COMM_LEN)
_BUNDLE_BYTES: Final = 1 << 20
_ARGUMENT_BYTES: Final = 16 << 10
_END_SECONDS: Final = 5.0


class Shims:
    """Looks at all of them; what a bundle says is read once for each process."""

    def __init__(self) -> None:
        self._gateways: dict[tuple[int, int], str] = {}

    def all(self, noted: Collection[str] = ()) -> tuple[Shim, ...]:
        """Every shim that runs. The bundles of containers in `noted` are not read: whose they are is known."""
        found = [shim for pid in _numbers() if (shim := shim_at(pid)) is not None]
        unknown = [shim for shim in found if shim.container_id and shim.container_id not in noted]
        self._gateways = {
            (shim.pid, shim.started): self._gateways.get((shim.pid, shim.started)) or _gateway(shim) for shim in unknown
        }
        return tuple(replace(shim, gateway=self._gateways.get((shim.pid, shim.started), "")) for shim in found)


def shim_at(pid: int) -> Shim | None:
    """The process, when it is called as shims are; None when it is gone or a zombie."""
    process = _PROC / str(pid)
    try:
        if (process / "comm").read_text().strip() != _COMM:
            return None
        with (process / "cmdline").open("rb") as file:
            arguments = file.read(_ARGUMENT_BYTES).decode(errors="replace").split("\0")
        return Shim(
            pid,
            started_at(pid),
            _link(process / "exe").removesuffix(" (deleted)"),  # an upgrade of the engine does that
            tuple(arguments[:-1]),
            _is_of_host(process),
            _link(process / "cwd").removesuffix(" (deleted)"),
        )
    except (OSError, ValueError, IndexError):
        return None


def started_at(pid: int) -> int:
    """When it was started, in clock ticks since the machine's start: field 22 of proc_pid_stat(5). Raises OSError."""
    return int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19])


def end_shim(shim: Shim) -> bool:
    """Kill it, if it is still the process that was seen; whether it is gone then."""
    try:
        descriptor = os.pidfd_open(shim.pid)
    except ProcessLookupError:
        return True
    try:
        now = shim_at(shim.pid)
        if now is None or replace(now, gateway=shim.gateway, bundle=shim.bundle) != shim:
            return True
        return killed(descriptor, _END_SECONDS)
    finally:
        os.close(descriptor)


def killed(descriptor: int, seconds: float) -> bool:
    """Kill the process of a pidfd; whether it ended in time. With no time at all it is not waited for."""
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _numbers() -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit()]  # noqa: PTH208  thousands of them, twice as fast


def _link(path: Path) -> str:
    return os.readlink(path)  # noqa: PTH115  magic links are text here


def _is_of_host(process: Path) -> bool:
    """Root's, in the namespaces of this daemon: a container cannot make one that looks like the engine's."""
    uids = next(line for line in (process / "status").read_text().splitlines() if line.startswith("Uid:"))
    own = all(_link(process / "ns" / kind) == _link(_PROC / "self/ns" / kind) for kind in ("pid", "mnt", "user"))
    return own and uids.split()[1:] == ["0"] * 4


def _gateway(shim: Shim) -> str:
    """What its container has at /gw, as the bundle says that the runtime was given; empty when that cannot be told."""
    try:
        with (_PROC / str(shim.pid) / "cwd/config.json").open("rb") as file:
            mounts = json.loads(file.read(_BUNDLE_BYTES))["mounts"]
        return next((str(mount["source"]) for mount in mounts if mount["destination"] == "/gw"), "-")
    except (OSError, ValueError, KeyError, TypeError):
        return ""
