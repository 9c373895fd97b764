"""frozen: whether a warm claim needs the engine: claims while a private one is stopped, against claims before."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.daemon import IMAGE, Daemon, running_daemon
from benchmarks.jobs import FROM_INSIDE, Watched, quiet, watched
from benchmarks.options import Options
from benchmarks.private_engine import PrivateEngine, private_engine
from benchmarks.quantiles import median, spread
from benchmarks.targets import Result, judged

CLAIMS: Final = 12


def measure(options: Options) -> Iterator[Result]:
    """A pool with a warm sandbox for each claim; half of the claims before the stop, half during it."""
    with private_engine(options.directory, IMAGE) as engine:
        wanted = 2 * options.of(CLAIMS, 2 * CLAIMS)
        with running_daemon(options, min_idle=wanted, most=wanted, engine=engine.url) as daemon:
            before, during = asyncio.run(_claims(daemon, engine, wanted))
    taken = {"before": spread([run.claim_ms for run in before]), "frozen": spread([run.claim_ms for run in during])}
    ratio = median([run.claim_ms for run in during]) / median([run.claim_ms for run in before])
    yield judged("frozen.ratio", ratio, taken)


async def _claims(daemon: Daemon, engine: PrivateEngine, wanted: int) -> tuple[Sequence[Watched], Sequence[Watched]]:
    """Jobs that hold their sandboxes, so that nothing is given back or refilled in either half but what the claims
    themselves set off.
    """
    async with daemon.client() as client:
        await quiet(client, wanted)
        before = [await watched(client, "holder", until=FROM_INSIDE) for _ in range(wanted // 2)]
        with engine.frozen():
            during = [await watched(client, "holder", until=FROM_INSIDE) for _ in range(wanted // 2)]
        for run in (*before, *during):
            await client.cancel_job(run.job_id, "measured")
        return before, during
