"""throughput: one-shot jobs a second, against the sandboxes that the bare engine makes and removes in that time.

Both are charged for all that they began: the clock stops when the last container is gone and, for the daemon, when its
pool is as full as it was before. They take turns in one run, since a shared machine is not the same for long.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Final

from benchmarks.bare_engine import REMOVALS, BareEngine, Rate, bare_engine
from benchmarks.daemon import Daemon, running_daemon
from benchmarks.jobs import quiet, watched
from benchmarks.options import Options, progress
from benchmarks.targets import Result, judged
from perstackctl.client import Client
from perstackd.domain.pool import MAX_STARTS

TURN_SECONDS: Final = 10.0
CLIENTS: Final = 8  # more than starts at once, so that the refill never waits for a claim
MIN_IDLE: Final = 3


def measure(options: Options) -> Iterator[Result]:
    """Turns of 10 s each: at least 20 s of jobs."""
    turns = options.of(2, 6)
    with running_daemon(options, min_idle=MIN_IDLE, most=16) as daemon, bare_engine(options.directory) as engine:
        jobs, bare = asyncio.run(_turns(daemon, engine, turns))
    detail = {
        "jobs_per_s": round(jobs.per_s, 2),
        "engine_per_s": round(bare.per_s, 2),
        "jobs": jobs.count,
        "jobs_seconds": round(jobs.seconds, 1),
        "clients": CLIENTS,
        "starts_at_once": MAX_STARTS,
        "removals_at_once": REMOVALS,
    }
    yield judged("throughput.engine_ratio", jobs.per_s / bare.per_s, detail)


async def _turns(daemon: Daemon, engine: BareEngine, turns: int) -> tuple[Rate, Rate]:
    jobs = bare = Rate(0, 0)
    async with daemon.client() as client:
        await quiet(client, MIN_IDLE)
        await watched(client, "one-shot")
        for turn in range(turns):
            await quiet(client, MIN_IDLE)
            bare += await asyncio.to_thread(engine.cycles, TURN_SECONDS)
            jobs += await _jobs(client)
            progress(f"turn {turn + 1} of {turns}: {jobs.per_s:.2f} jobs/s, the engine alone {bare.per_s:.2f}/s")
    return jobs, bare


async def _jobs(client: Client) -> Rate:
    began, done = time.monotonic(), 0

    async def one_after_the_other() -> None:
        nonlocal done
        while time.monotonic() < began + TURN_SECONDS:
            await watched(client, "one-shot")
            done += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CLIENTS):
            tasks.create_task(one_after_the_other())
    await quiet(client, MIN_IDLE)
    return Rate(done, time.monotonic() - began)
