"""claim: how long a job waits for its sandbox, from RunJob to the first event from inside, at the client."""

import asyncio
from collections.abc import Iterator
from typing import Final

from benchmarks.barriers import Barriers
from benchmarks.daemon import Daemon, running_daemon
from benchmarks.disk import fsync_p50_ms
from benchmarks.failure import MeasurementError
from benchmarks.jobs import FROM_INSIDE, Watched, quiet, watched
from benchmarks.options import Options, progress
from benchmarks.quantiles import median, quantile, spread
from benchmarks.targets import Result, judged
from perstackctl.client import Client, Event

EXPERT: Final = "with-secret"
MIN_IDLE: Final = 2
_ON_THE_WAY: Final = ("jobCreated", "jobAdmitted", "sandboxAssigned", FROM_INSIDE)


def measure(options: Options) -> Iterator[Result]:
    """One claim at a time, with a managed workspace and a secret; the pool is full again before the next."""
    with running_daemon(options, min_idle=MIN_IDLE, most=8) as daemon:
        fsync = fsync_p50_ms(daemon.state)
        claims = asyncio.run(_claims(daemon, options.of(50, 300)))
    taken = [job.claim_ms for job, _ in claims]
    detail = {
        **spread(taken),
        "commits_p50": median([barriers.commits for _, barriers in claims]),
        "file_syncs_p50": median([barriers.file_syncs for _, barriers in claims]),
        "arrived_p50_ms": {name: round(median([job.ms_to(name) for job, _ in claims]), 2) for name in _ON_THE_WAY},
    }
    yield judged("claim.p50_ms", median(taken), detail, fsync_ms=fsync)
    yield judged("claim.p99_ms", quantile(taken, 0.99), detail, fsync_ms=fsync)


async def _claims(daemon: Daemon, count: int) -> list[tuple[Watched, Barriers]]:
    async with daemon.client() as client:
        await quiet(client, MIN_IDLE)
        await watched(client, EXPERT)  # the first one pays for imports on both sides
        claims: list[tuple[Watched, Barriers]] = []
        for number in range(count):
            claims.append(await claim(daemon, client))
            if (number + 1) % 50 == 0:
                progress(f"{number + 1} of {count} claims")
    return claims


async def claim(daemon: Daemon, client: Client) -> tuple[Watched, Barriers]:
    """One job on a pool at rest, and the durable barriers until its first event from inside (refill's included)."""
    await quiet(client, daemon.min_idle)
    before = after = daemon.barriers()

    def heard(event: Event) -> None:
        nonlocal after
        if event.type == FROM_INSIDE:
            after = daemon.barriers()

    job = await watched(client, EXPERT, heard=heard)
    if "jobQueued" in job.types():
        raise MeasurementError(f"job {job.job_id} had to wait for a sandbox, though the pool was full before it")
    return job, after - before
