"""churn: what is left after many sandboxes came and went: in the daemon, in the kernel, in the engine."""

import asyncio
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from benchmarks.daemon import Daemon, running_daemon
from benchmarks.failure import MeasurementError
from benchmarks.jobs import quiet, watched
from benchmarks.options import Options, progress
from benchmarks.targets import Result, judged
from perstackctl.client import Client
from perstackd.adapters.docker.hardening import LABEL_DAEMON

MIN_IDLE: Final = 10
WARM_UP: Final = 60
"""Jobs before the first look, in the same way: threads and connections that are kept are there by then."""
CLIENTS: Final = 4
NOT_COUNTED: Final = frozenset({"threads"})
"""Shown only: gRPC's own pool of threads grows with the most that was ever to be done at once, and stays."""
SLACK: Final = 2
"""Descriptors that may differ between two looks: a read of the store or a call to the engine is under way."""


def measure(options: Options) -> Iterator[Result]:
    """200 jobs, each in a fresh sandbox (2,000 with --full); the pool is at rest at both looks."""
    cycles = options.of(200, 2_000)
    with running_daemon(options, min_idle=MIN_IDLE, most=20) as daemon:
        before, after = asyncio.run(_churned(daemon, cycles))
    grown = {name: max(0, after[name] - before[name]) for name in before if name not in NOT_COUNTED}
    grown["descriptors"] = max(0, grown["descriptors"] - SLACK)
    yield judged("churn.leaks", sum(grown.values()), {"cycles": cycles, "before": before, "after": after})


async def _churned(daemon: Daemon, cycles: int) -> tuple[Mapping[str, int], Mapping[str, int]]:
    async with daemon.client() as client:
        await _jobs(client, WARM_UP)
        await quiet(client, MIN_IDLE)
        before = look(daemon)
        await _jobs(client, cycles)
        await quiet(client, MIN_IDLE)
        return before, look(daemon)


async def _jobs(client: Client, count: int) -> None:
    left = iter(range(count))

    async def work() -> None:
        for number in left:
            await watched(client, "one-shot")
            if number % 50 == 49:
                progress(f"{number + 1} of {count} jobs")

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(work())


def look(daemon: Daemon) -> dict[str, int]:
    """How many of each there are, the idle sandboxes included. Cgroups and shims are the engine's, whoever's containers
    they are: one that outlived its container has no other name.
    """
    home, label = str(daemon.home), f"label={LABEL_DAEMON}={daemon.id}"
    listed = subprocess.run(
        ["docker", "ps", "-aq", "--no-trunc", "--filter", label], capture_output=True, text=True, timeout=60, check=True
    ).stdout.split()
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "containers": len(listed),
        "mounts": sum(home in line for line in mounts),
        "directories": sum(1 for _ in (daemon.home / "run" / "s").iterdir()),
        "sockets": sum(path.is_socket() for path in (daemon.home / "run").rglob("*")),
        "descriptors": _descriptors(daemon),
        "threads": _entries(daemon, "task"),
        "cgroups": len(_docker_cgroups()),
        "shims": _shims(),
        "loop_devices": _loop_devices(home),
    }


def _descriptors(daemon: Daemon) -> int:
    """Without the user namespaces, which are kept, one for each uid that a sandbox ever had."""
    count = 0
    for descriptor in Path(f"/proc/{daemon.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += not str(descriptor.readlink()).startswith("user:[")
    return count


def _entries(daemon: Daemon, what: str) -> int:
    return sum(1 for _ in Path(f"/proc/{daemon.pid}/{what}").iterdir())


def _docker_cgroups() -> frozenset[str]:
    found = Path("/sys/fs/cgroup").glob("**/docker/*")
    return frozenset(path.name for path in found if path.is_dir())


def _shims() -> int:
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        count += "containerd-shim" in command
    return count


def _loop_devices(home: str) -> int:
    done = subprocess.run(["losetup", "-a"], capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise MeasurementError(f"losetup failed: {done.stderr.strip()[:200]}")
    return sum(home in line for line in done.stdout.splitlines())
