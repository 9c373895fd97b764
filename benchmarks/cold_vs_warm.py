"""cold_vs_warm: `docker run` of the same image until its first output, against a claim; taken in turns, in one run."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from typing import Final

from benchmarks.claim import EXPERT, MIN_IDLE, claim
from benchmarks.daemon import IMAGE, Daemon, running_daemon
from benchmarks.failure import MeasurementError
from benchmarks.jobs import quiet, watched
from benchmarks.options import Options
from benchmarks.quantiles import median, spread
from benchmarks.targets import Result, judged

# The fastest there is: no network to set up, nothing to start but a shell's echo.
_COLD: Final = ("docker", "run", "--rm", "--network", "none", "--entrypoint", "/bin/echo", IMAGE, "ready")


def measure(options: Options) -> Iterator[Result]:
    """As many pairs as asked for; the ratio of the medians."""
    with running_daemon(options, min_idle=MIN_IDLE, most=8) as daemon:
        cold, warm = asyncio.run(_pairs(daemon, options.of(20, 60)))
    detail = {"docker_run_ms": spread(cold), "claim_ms": spread(warm), "command": " ".join(_COLD)}
    yield judged("cold_vs_warm.ratio", median(cold) / median(warm), detail)


async def _pairs(daemon: Daemon, count: int) -> tuple[list[float], list[float]]:
    cold: list[float] = []
    warm: list[float] = []
    async with daemon.client() as client:
        await quiet(client, daemon.min_idle)
        await watched(client, EXPERT)
        for _ in range(count):
            job, _barriers = await claim(daemon, client)
            warm.append(job.claim_ms)
            await quiet(client, daemon.min_idle)
            cold.append(await asyncio.to_thread(_docker_run_ms))
    return cold, warm


def _docker_run_ms() -> float:
    began = time.perf_counter()
    with subprocess.Popen(_COLD, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        if process.stdout is None or process.stderr is None:
            raise MeasurementError("docker run has no pipes")
        first = process.stdout.read(1)
        took = time.perf_counter() - began
        _, errors = process.communicate(timeout=60)
    if not first or process.returncode:
        raise MeasurementError(f"{' '.join(_COLD)} failed: {errors.decode(errors='replace')[:500]}")
    return took * 1000
