"""memory: what idle sandboxes cost, in the daemon and each by itself. The product's own program, no scripted model."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.daemon import Daemon, running_daemon
from benchmarks.engine import first_pids
from benchmarks.failure import MeasurementError
from benchmarks.jobs import the_pool
from benchmarks.options import Options, progress
from benchmarks.processes import CgroupMemory, cgroup_memory, children, cpu_seconds, name, parent, pss_mib, rss_mib
from benchmarks.quantiles import median
from benchmarks.targets import Result, judged
from perstackctl.client import Client

FEW: Final = 10
IDLE_SECONDS: Final = 10.0
_SETTLE_SECONDS: Final = 3.0


@dataclass(slots=True)
class Idle:
    """A daemon with idle sandboxes. Memory is MiB."""

    wanted: int
    sandboxes: int = 0
    rss_with_few: float = 0
    few: int = 0
    rss: float = 0
    cpu_pct: float = 0
    helpers: dict[str, float] = field(default_factory=dict)
    warm: Sequence[CgroupMemory] = ()
    shims: Sequence[float] = ()


def measure(options: Options) -> Iterator[Result]:
    """60 idle sandboxes, 200 with --full, or as many as are up within the time bound."""
    wanted, seconds = options.of(60, 200), options.of(180, 420)
    with running_daemon(options, min_idle=wanted, most=wanted, real_models=True) as daemon:
        idle = asyncio.run(_idle(daemon, seconds))
    several = idle.sandboxes - idle.few
    count = {"sandboxes": idle.sandboxes, "wanted": idle.wanted}
    at_rest = {**count, "still_filling": idle.sandboxes < idle.wanted}
    mib = {"rss_mib": round(idle.rss, 1), f"rss_mib_with_{idle.few}": round(idle.rss_with_few, 1)}
    yield judged("memory.daemon_mib", idle.rss, {**count, "helpers_rss_mib": idle.helpers})
    yield judged("memory.per_sandbox_mib", (idle.rss - idle.rss_with_few) / several, {**count, **mib})
    yield judged("idle.cpu_pct", idle.cpu_pct, {**at_rest, "seconds": IDLE_SECONDS})
    yield judged("memory.base_mib", median([each.working_set for each in idle.warm]), {**count, **_apart(idle)})


def _apart(idle: Idle) -> dict[str, float]:
    return {
        "anonymous_mib": round(median([each.anonymous for each in idle.warm]), 2),
        "total_mib": round(median([each.total for each in idle.warm]), 2),
        "shim_pss_mib": round(median(idle.shims), 2),
    }


async def _idle(daemon: Daemon, seconds: float) -> Idle:
    idle = Idle(daemon.min_idle)
    async with daemon.client() as client:
        await _fill(daemon, client, idle, seconds)
        await asyncio.sleep(_SETTLE_SECONDS)
        idle.rss = rss_mib(daemon.pid)
        idle.helpers = {name(pid): round(rss_mib(pid), 1) for pid in children(daemon.pid)}
        before = cpu_seconds(daemon.pid)
        await asyncio.sleep(IDLE_SECONDS)
        idle.cpu_pct = 100 * (cpu_seconds(daemon.pid) - before) / IDLE_SECONDS
        containers = [each.container_id for each in await client.list_sandboxes() if each.state == "idle"]
    idle.sandboxes = len(containers)
    if idle.sandboxes <= idle.few:
        raise MeasurementError(f"only {idle.sandboxes} sandboxes came up within {seconds} s")
    pids = await asyncio.to_thread(first_pids, containers)
    idle.warm = [cgroup_memory(pid) for pid in pids]
    idle.shims = [pss_mib(shim) for shim in sorted({parent(pid) for pid in pids})]
    return idle


async def _fill(daemon: Daemon, client: Client, idle: Idle, seconds: float) -> None:
    """Wait for the pool, and take the daemon's memory on the way while it has few."""
    deadline, told = time.monotonic() + seconds, 0
    while (pool := await the_pool(client)).idle < daemon.min_idle and time.monotonic() < deadline:
        if pool.idle <= FEW or not idle.few:
            idle.few, idle.rss_with_few = pool.idle, rss_mib(daemon.pid)
        if pool.idle >= told + 20:
            told = pool.idle
            progress(f"{pool.idle} of {daemon.min_idle} sandboxes are warm")
        await asyncio.sleep(0.1)
