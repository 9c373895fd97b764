"""cli: how long perstackctl takes to say something, as a process of its own."""

import asyncio
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.daemon import BIN, Daemon, running_daemon
from benchmarks.failure import MeasurementError
from benchmarks.jobs import at_once, quiet
from benchmarks.options import Options
from benchmarks.quantiles import median, spread
from benchmarks.targets import Result, judged

JOBS: Final = 20
MIN_IDLE: Final = 2


def measure(options: Options) -> Iterator[Result]:
    """`perstackctl --help` and `perstackctl job ls` with twenty jobs, in turns, output into a pipe. Medians."""
    with running_daemon(options, min_idle=MIN_IDLE, most=8) as daemon:
        asyncio.run(_jobs(daemon))
        _seconds(daemon, ["job", "ls"])  # the first one reads the files from disk
        runs = [(_seconds(daemon, ["--help"]), _seconds(daemon, ["job", "ls"])) for _ in range(options.of(15, 40))]
    for name, taken in zip(("cli.help_s", "cli.job_ls_s"), zip(*runs, strict=True), strict=True):
        yield judged(name, median(taken), spread(taken))


async def _jobs(daemon: Daemon) -> None:
    async with daemon.client() as client:
        await quiet(client, MIN_IDLE)
        await at_once(client, "one-shot", JOBS)
        await quiet(client, MIN_IDLE)


def _seconds(daemon: Daemon, arguments: Sequence[str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        [BIN / "perstackctl", *arguments],
        env=daemon.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    took = time.perf_counter() - began
    if done.returncode or not done.stdout:
        raise MeasurementError(f"perstackctl {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-500:]}")
    return took
