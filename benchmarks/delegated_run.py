"""delegated_run: a coordinator and its one delegate, four model turns, with and without a client process."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from typing import Final

from benchmarks.daemon import BIN, Daemon, running_daemon
from benchmarks.experts import DEFINITION, PROVIDER, QUERY
from benchmarks.failure import MeasurementError
from benchmarks.jobs import Watched, quiet, watched
from benchmarks.options import Options
from benchmarks.quantiles import median, spread
from benchmarks.targets import Result, judged

EXPERT: Final = "coordinator"
MODEL_TURNS: Final = 4
MIN_IDLE: Final = 3
_ON_THE_WAY: Final = ("initializeRuntime", "callDelegate", "jobFinished")


def measure(options: Options) -> Iterator[Result]:
    """In turns: a job watched by this process, and one by a `perstackctl run` of its own. Medians."""
    with running_daemon(options, min_idle=MIN_IDLE, most=8) as daemon:
        (daemon.home / "perstack.toml").write_text(DEFINITION)
        jobs, cli = asyncio.run(_pairs(daemon, options.of(12, 40)))
    seconds = [job.seconds for job in jobs]
    arrived = {name: round(median([job.ms_to(name) for job in jobs]), 1) for name in _ON_THE_WAY}
    yield judged("delegated_run.cli_s", median(cli), spread(cli))
    yield judged("delegated_run.job_s", median(seconds), {**spread(seconds), "arrived_p50_ms": arrived})


async def _pairs(daemon: Daemon, count: int) -> tuple[list[Watched], list[float]]:
    jobs: list[Watched] = []
    cli: list[float] = []
    async with daemon.client() as client:
        await quiet(client, MIN_IDLE)
        _check(await watched(client, EXPERT))
        for _ in range(count):
            await quiet(client, MIN_IDLE)
            jobs.append(await watched(client, EXPERT))
            await quiet(client, MIN_IDLE)
            cli.append(await asyncio.to_thread(_perstackctl_run, daemon))
    return jobs, cli


def _check(job: Watched) -> None:
    turns = sum(event_type in {"callTools", "completeRun"} for event_type in job.types())
    if turns != MODEL_TURNS or job.types().count("startRun") != 2:
        raise MeasurementError(f"the run is not the one that is promised: {turns} model turns, events {job.types()}")


def _perstackctl_run(daemon: Daemon) -> float:
    command = [str(BIN / "perstackctl"), "run", EXPERT, QUERY, "--workspace", "bench", "--provider", PROVIDER]
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=daemon.home, env=daemon.environment, capture_output=True, text=True, timeout=60, check=False
    )
    took = time.perf_counter() - began
    if done.returncode:
        raise MeasurementError(f"perstackctl run ended with {done.returncode}: {done.stderr[-500:]}")
    return took
