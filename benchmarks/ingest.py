"""ingest: events a second into the store: numbered, encoded, durable in batches; and from a sandbox to a watcher."""

import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks import ingest_socket
from benchmarks.finished_job import made
from benchmarks.options import Options
from benchmarks.quantiles import median
from benchmarks.targets import Result, judged
from perstackd.adapters.store.sqlite import open_store
from perstackd.domain.events import Event
from perstackd.domain.job import JobRecord

BATCH: Final = 500
EVENTS: Final = 20_000
REPEATS: Final = 3


def measure(options: Options) -> Iterator[Result]:
    """One writer and one job at a time, batches of 500; each append is durable before the next."""
    rates = [asyncio.run(_rate(options.directory)) for _ in range(options.of(REPEATS, 10))]
    yield judged("ingest.store_eps", median(rates), {"batch": BATCH, "runs": [round(rate) for rate in rates]})
    through = [ingest_socket.rate() for _ in range(options.of(REPEATS, 10))]
    detail = {"pieces": ingest_socket.PIECES, "came": min(came for _, came in through), "bounds": "lifted"}
    yield judged("ingest.socket_eps", median([eps for eps, _ in through]), detail)


async def _rate(directory: Path) -> float:
    job, events = made(EVENTS)
    with tempfile.TemporaryDirectory(prefix="perstackd-bench-", dir=directory) as state:
        async with await open_store(Path(state)) as store:
            await store.create(replace(job, last_seq=1), events[:1])
            began = time.perf_counter()
            for batch in _batches(events):
                await store.append(_at(job, batch), batch)
            return (len(events) - 1) / (time.perf_counter() - began)


def _batches(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    for begin in range(1, len(events), BATCH):
        yield events[begin : begin + BATCH]


def _at(job: JobRecord, batch: Sequence[Event]) -> JobRecord:
    return replace(job, last_seq=batch[-1].seq)
