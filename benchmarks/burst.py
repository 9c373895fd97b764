"""burst: many claims at once on a pool that has a warm sandbox for each of them."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.daemon import Daemon, running_daemon
from benchmarks.jobs import Watched, at_once, idle_ids, quiet, watched
from benchmarks.options import Options, progress
from benchmarks.quantiles import quantile, spread
from benchmarks.targets import Result, judged

COUNT: Final = 40


def measure(options: Options) -> Iterator[Result]:
    """Rounds of 40. A hit is a job whose sandbox was warm before the round. p99 is over all jobs of all rounds."""
    with running_daemon(options, min_idle=COUNT, most=2 * COUNT) as daemon:
        rounds = asyncio.run(_rounds(daemon, options.of(2, 5)))
    jobs = [job for _, taken in rounds for job in taken]
    hits = sum(_sandbox(job) in warm for warm, taken in rounds for job in taken)
    claims = [job.claim_ms for job in jobs]
    detail = {
        **spread(claims),
        "rounds": len(rounds),
        "created_p99_ms": round(quantile([job.ms_to("jobCreated") for job in jobs], 0.99), 1),
        "assigned_p99_ms": round(quantile([job.ms_to("sandboxAssigned") for job in jobs], 0.99), 1),
    }
    yield judged("burst.hits_pct", 100 * hits / len(jobs), {"hits": hits, "claims": len(jobs)})
    yield judged("burst.p99_ms", quantile(claims, 0.99), detail)


async def _rounds(daemon: Daemon, count: int) -> list[tuple[frozenset[str], Sequence[Watched]]]:
    rounds: list[tuple[frozenset[str], Sequence[Watched]]] = []
    async with daemon.client() as client:
        progress(f"filling a pool of {COUNT}")
        await quiet(client, COUNT)
        await watched(client, "one-shot")
        for _ in range(count):
            await quiet(client, COUNT)
            warm = await idle_ids(client)
            rounds.append((warm, await at_once(client, "one-shot", COUNT)))
    return rounds


def _sandbox(job: Watched) -> str:
    return str(job.payloads("sandboxAssigned")[0]["sandboxId"])
