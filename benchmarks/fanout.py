"""fanout: many watchers of one job that goes on, some of which leave and come back where they were."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, cast

from benchmarks.daemon import Daemon, running_daemon
from benchmarks.jobs import quiet, request
from benchmarks.options import Options
from benchmarks.quantiles import quantile, spread
from benchmarks.targets import Result, judged
from perstackctl.client import Client, Event

WATCHERS: Final = 50
LEAVES_AFTER: Final = 200
"""Events after which every second watcher closes its stream and opens another from there."""


@dataclass(slots=True)
class Seen:
    """What one watcher saw. Latencies are milliseconds from the event's own time, which has whole ones."""

    seqs: list[int] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


def measure(options: Options) -> Iterator[Result]:
    """One job whose model takes its time, so that about 200 events a second come; watched by 50 from its beginning."""
    with running_daemon(options, min_idle=1, most=2) as daemon:
        seen, seconds = asyncio.run(_watched(daemon))
    last = max(watcher.seqs[-1] for watcher in seen)
    latencies = [latency for watcher in seen for latency in watcher.latencies]
    detail = {**spread(latencies), "watchers": WATCHERS, "events_per_s": round(last / seconds), "events": last}
    yield judged("fanout.p99_ms", quantile(latencies, 0.99), detail)
    gaps = sum(last - len(set(watcher.seqs)) for watcher in seen)
    yield judged("fanout.gaps", gaps, {"watchers": WATCHERS})
    yield judged("fanout.duplicates", sum(len(each.seqs) - len(set(each.seqs)) for each in seen), {"events": last})


async def _watched(daemon: Daemon) -> tuple[list[Seen], float]:
    seen = [Seen() for _ in range(WATCHERS)]
    async with daemon.client() as client:
        await quiet(client, 1)
        job_id = (await client.create_job(request("paced"))).job.id
        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for place, watcher in enumerate(seen):
                tasks.create_task(_watch(client, job_id, watcher, leaves=bool(place % 2)))
        return seen, time.perf_counter() - began


async def _watch(client: Client, job_id: str, seen: Seen, *, leaves: bool) -> None:
    ended = False
    while not ended:
        after, had = seen.seqs[-1] if seen.seqs else 0, len(seen.seqs)
        async with aclosing(cast("Any", client.watch_job(job_id, after_seq=after))) as batches:
            async for batch in batches:
                ended = _note(seen, batch.events) or ended
                if leaves and not ended and len(seen.seqs) - had >= LEAVES_AFTER:
                    break


def _note(seen: Seen, events: tuple[Event, ...]) -> bool:
    now = time.time() * 1000
    for event in events:
        seen.seqs.append(event.seq)
        seen.latencies.append(max(0.0, now - event.timestamp))
    return any(event.type == "jobFinished" for event in events)
