"""recover: a daemon with warm sandboxes and running jobs is killed, and another one is started at once."""

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from benchmarks.daemon import Daemon, another_daemon, running_daemon
from benchmarks.failure import MeasurementError
from benchmarks.jobs import JOB_SECONDS, Watched, note, quiet, request
from benchmarks.options import Options, progress
from benchmarks.targets import Result, judged
from perstackctl.client import Client, ClientError, Sandbox, Workspace
from perstackd.adapters.docker.hardening import LABEL_DAEMON

JOBS: Final = 20
SANDBOXES: Final = 50
BOUND_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.01


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds since the kill; how many sandboxes there were; what became of the jobs; what was left of whom."""

    serving: float
    reconciled: float
    sandboxes: int
    jobs: Sequence[Watched]
    orphans: Sequence[str]


def measure(options: Options) -> Iterator[Result]:
    """20 jobs are in the middle of a call, 30 sandboxes idle, some being started. The clock runs from the kill, and
    has the start of the next daemon in it.
    """
    with running_daemon(options, min_idle=SANDBOXES, most=2 * SANDBOXES, mortal=True) as first:
        running = asyncio.run(_busy(first))
        killed = time.perf_counter()
        with another_daemon(first, SANDBOXES - JOBS) as second:
            found = asyncio.run(_recovered(second, killed, running))
    lost = [job.job_id for job in found.jobs if not _whole(job)]
    detail = {"jobs": len(found.jobs), "sandboxes": found.sandboxes}
    moved = sum(job.types().count("sandboxAssigned") - 1 for job in found.jobs)
    interrupted = sum("interrupted" in str(job.payloads("resumeToolCalls")) for job in found.jobs)
    yield judged("recover.serving_s", found.serving, detail)
    yield judged("recover.reconciled_s", found.reconciled, detail)
    yield judged("recover.lost", len(lost), {**detail, "in_fresh_sandboxes": moved, "interrupted": interrupted})
    yield judged("recover.orphans", len(found.orphans), {"what": list(found.orphans)[:10]})
    yield judged("recover.double", sum(max(0, _made(job) - 1) for job in found.jobs), {"calls": len(found.jobs)})


async def _busy(daemon: Daemon) -> list[Watched]:
    """Jobs, each with a call that has begun, over a pool that is full."""
    async with daemon.client() as client:
        progress(f"filling a pool of {daemon.min_idle}, then {JOBS} jobs of it")
        await quiet(client, daemon.min_idle)
        began = time.perf_counter()
        return await asyncio.gather(*(_until(client, Watched(began), "callTools") for _ in range(JOBS)))


async def _until(client: Client, job: Watched, event_type: str) -> Watched:
    """Watch it, from where it stands, to its first event of that type; make it when there is none yet."""
    if not job.job_id:
        asked = replace(request("survivor"), workspace=Workspace())
        job.job_id = (await client.create_job(asked)).job.id
    try:
        async with asyncio.timeout(JOB_SECONDS):
            async with aclosing(cast("Any", client.watch_job(job.job_id, len(job.events)))) as batches:
                async for batch in batches:
                    note(job, batch)
                    if event_type in (event.type for event in batch.events):
                        return job
    except TimeoutError:
        raise MeasurementError(f"job {job.job_id} did not come to {event_type}; it had {job.types()}") from None
    return job


async def _recovered(daemon: Daemon, killed: float, running: Sequence[Watched]) -> Recovery:
    async with daemon.client() as client:
        serving = await _when(killed, client.info)
        known = len(await client.list_sandboxes())
        reconciled = await _when(killed, lambda: _settled(client, daemon.min_idle))
        progress(f"serving after {serving:.2f} s, reconciled after {reconciled:.2f} s")
        jobs = await asyncio.gather(*(_until(client, job, "jobFinished") for job in running))
        await quiet(client, daemon.min_idle)
        left = await asyncio.to_thread(_orphans, daemon, await client.list_sandboxes())
        return Recovery(serving, reconciled, known, jobs, left)


async def _when(since: float, succeeds: Any) -> float:
    """Seconds until a call succeeds."""
    while True:
        try:
            await succeeds()
        except (ClientError, _NotYetError):
            if time.perf_counter() - since > BOUND_SECONDS:
                raise MeasurementError(f"the next daemon was not there within {BOUND_SECONDS:g} s") from None
            await asyncio.sleep(_POLL_SECONDS)
        else:
            return time.perf_counter() - since


class _NotYetError(Exception):
    """To be asked again."""


async def _settled(client: Client, idle: int) -> None:
    """Whether the engine has answered, and every sandbox of before is idle, a run's, or gone. Raises _NotYetError."""
    (pool,) = await client.pools()
    if pool.halted or pool.idle < idle or pool.starting or pool.removing:
        raise _NotYetError


def _orphans(daemon: Daemon, known: Sequence[Sandbox]) -> list[str]:
    """What is there of sandboxes and is nobody's."""
    label = f"label={LABEL_DAEMON}={daemon.id}"
    listed = subprocess.run(
        ["docker", "ps", "-aq", "--no-trunc", "--filter", label], capture_output=True, text=True, check=True
    )
    run = daemon.home / "run"
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [
        *(set(listed.stdout.split()) - {each.container_id for each in known}),
        *({path.name for path in (run / "s").iterdir()} - {each.id for each in known}),
        *(mount for mount in mounts if mount.startswith((f"{run}/s/", f"{run}/ephemeral/"))),
        *(f"{each.id} is still {each.job_id}'s" for each in known if each.job_id),
    ]


def _whole(job: Watched) -> bool:
    """It has completed, and each event is there once."""
    ends = job.payloads("jobFinished")
    numbers = [event.seq for _, event in job.events]
    return bool(ends) and ends[0]["outcome"] == "completed" and numbers == list(range(1, len(numbers) + 1))


def _made(job: Watched) -> int:
    """How often its program ran, by what it wrote."""
    (result,) = job.payloads("resolveToolResults")[-1]["results"]
    return str(json.loads(result["content"][0]["text"])["content"]).split().count("made")
