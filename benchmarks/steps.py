"""steps: what one base-tool step costs early and late in a long run. A step must not cost its history."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from benchmarks.barriers import Barriers
from benchmarks.daemon import Daemon, running_daemon
from benchmarks.disk import fsync_p50_ms
from benchmarks.jobs import Watched, quiet, watched
from benchmarks.options import Options
from benchmarks.quantiles import median
from benchmarks.targets import Result, judged
from perstackctl.client import Event

EARLY: Final = 10
LATE: Final = 300
HALF_WINDOW: Final = 5
_STEP_ENDED: Final = "continueToNextStep"


@dataclass(slots=True)
class Steps:
    """Arrivals of one run's steps, and the barriers that had been passed by then."""

    job: Watched
    barriers: dict[int, Barriers] = field(default_factory=dict)

    def ms_at(self, step: int) -> float:
        """Milliseconds a step, over the ten steps around `step`."""
        arrived = {event.step_number: at for at, event in self.job.events if event.type == _STEP_ENDED}
        return (arrived[step + HALF_WINDOW] - arrived[step - HALF_WINDOW]) * 1000 / (2 * HALF_WINDOW)


def measure(options: Options) -> Iterator[Result]:
    """Runs of 310 steps, one after the other; the median of the runs."""
    with running_daemon(options, min_idle=1, most=4) as daemon:
        fsync = fsync_p50_ms(daemon.state)
        runs = asyncio.run(_runs(daemon, options.of(3, 10)))
    barriers = (runs[-1].barriers[LATE] - runs[-1].barriers[EARLY]).per(LATE - EARLY)
    for name, step in (("steps.ms_at_10", EARLY), ("steps.ms_at_300", LATE)):
        taken = [run.ms_at(step) for run in runs]
        detail = {"runs": [round(ms, 2) for ms in taken], "barriers_per_step": barriers}
        yield judged(name, median(taken), detail, fsync_ms=fsync)


async def _runs(daemon: Daemon, count: int) -> list[Steps]:
    runs: list[Steps] = []
    async with daemon.client() as client:
        await quiet(client, 1)
        await watched(client, "one-shot")
        for _ in range(count):
            await quiet(client, 1)
            barriers: dict[int, Barriers] = {}

            def heard(event: Event, barriers: dict[int, Barriers] = barriers) -> None:
                if event.type == _STEP_ENDED and event.step_number in {EARLY, LATE}:
                    barriers[event.step_number] = daemon.barriers()

            runs.append(Steps(await watched(client, "stepper", heard=heard), barriers))
    return runs
