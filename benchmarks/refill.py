"""refill: how fast a pool is full again after all of it was claimed, and how many sandboxes it ever has too many."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.daemon import Daemon, running_daemon
from benchmarks.failure import MeasurementError
from benchmarks.jobs import FROM_INSIDE, at_once, quiet, the_pool
from benchmarks.options import Options
from benchmarks.targets import Result, judged
from perstackctl.client import Client

_POLL_SECONDS: Final = 0.02
_BOUND_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Refill:
    """One refill: how long it took, and the most sandboxes that were starting or idle at a time."""

    seconds: float
    peak: int
    start_p50_ms: float


def measure(options: Options) -> Iterator[Result]:
    """All are claimed at once by jobs that go on; the clock runs from the first claim to the last warm sandbox."""
    size = options.of(12, 30)
    with running_daemon(options, min_idle=size, most=3 * size) as daemon:
        refill = asyncio.run(_refill(daemon))
    detail = {
        "sandboxes": size,
        "seconds": round(refill.seconds, 2),
        "one_start_p50_ms": round(refill.start_p50_ms),
    }
    yield judged("refill.per_s", size / refill.seconds, detail)
    yield judged("refill.peak", refill.peak, {"min_idle": size}, plus=size)


async def _refill(daemon: Daemon) -> Refill:
    async with daemon.client() as client:
        await quiet(client, daemon.min_idle)
        began = time.perf_counter()
        jobs, refill = await asyncio.gather(
            at_once(client, "holder", daemon.min_idle, until=FROM_INSIDE), _watch_pool(client, daemon.min_idle, began)
        )
        for job in jobs:
            await client.cancel_job(job.job_id)
        await quiet(client, daemon.min_idle)
    return refill


async def _watch_pool(client: Client, size: int, began: float) -> Refill:
    """Until `size` sandboxes have been claimed and as many are idle."""
    peak = 0
    while True:
        pool = await the_pool(client)
        taken = time.perf_counter() - began
        peak = max(peak, pool.starting + pool.idle)
        if pool.claimed == size and pool.idle >= size:
            return Refill(taken, peak, pool.refill_p50_ms)
        if taken > _BOUND_SECONDS:
            raise MeasurementError(f"the pool was not full again after {_BOUND_SECONDS:g} s: {pool}")
        await asyncio.sleep(_POLL_SECONDS)
