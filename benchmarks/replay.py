"""replay: a long log read back: through the fold, and by one watcher over the socket."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from typing import Any, Final, cast

from benchmarks.daemon import Daemon, running_daemon
from benchmarks.failure import MeasurementError
from benchmarks.finished_job import made, write
from benchmarks.options import Options
from benchmarks.quantiles import median
from benchmarks.targets import Result, judged
from perstackd.domain.events import Event
from perstackd.domain.ids import JobId
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_record import RUN_FACTS
from perstackd.domain.run_state import RunState

EVENTS: Final = 50_000
FOLDED: Final = 1_500
"""Facts of 300 tool steps."""
REPEATS: Final = 5


def measure(options: Options) -> Iterator[Result]:
    """Folds the events of one run, and watches a finished job from its first event."""
    folded = [_fold_rate(made(FOLDED)[1]) for _ in range(options.of(REPEATS, 20))]
    yield judged("replay.fold_eps", median(folded), {"events": FOLDED, "runs": [round(rate) for rate in folded]})
    with running_daemon(options, min_idle=1, most=2, before=lambda state: write(state, EVENTS)) as daemon:
        job_id, count = cast("tuple[JobId, int]", daemon.prepared)
        watched = asyncio.run(_watched(daemon, job_id, count, options.of(REPEATS, 20)))
    yield judged("replay.watch_eps", median(watched), {"events": count, "runs": [round(rate) for rate in watched]})


def _fold_rate(events: Sequence[Event]) -> float:
    began, state = time.perf_counter(), RunState()
    for event in events:
        if isinstance(event.payload, RUN_FACTS):
            state = evolve(state, event.payload)
    if state.end is None:
        raise MeasurementError("the folded run did not end")
    return len(events) / (time.perf_counter() - began)


async def _watched(daemon: Daemon, job_id: JobId, count: int, repeats: int) -> list[float]:
    rates: list[float] = []
    async with daemon.client() as client:
        for _ in range(repeats):
            began, seen = time.perf_counter(), 0
            async with aclosing(cast("Any", client.watch_job(job_id))) as batches:
                async for batch in batches:
                    seen += len(batch.events)
            if seen != count:
                raise MeasurementError(f"the watcher saw {seen} of {count} events")
            rates.append(count / (time.perf_counter() - began))
    return rates
