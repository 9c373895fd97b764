"""growth: what 300 tool steps with results of 1 KiB leave in the store, on the wire and in memory."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc.aio
from perstack.v1 import events_pb2, jobs_pb2, jobs_pb2_grpc

from benchmarks.daemon import Daemon, running_daemon
from benchmarks.engine import first_pids
from benchmarks.experts import RESULT_BYTES, TOOL_STEPS
from benchmarks.failure import MeasurementError
from benchmarks.jobs import JOB_SECONDS, quiet, request, watched
from benchmarks.options import Options
from benchmarks.processes import cgroup_pids, rss_mib
from benchmarks.targets import Result, judged

EXPERT: Final = "reader"
EARLY: Final = 10
LATE: Final = TOOL_STEPS
_FRAME_BYTES: Final = 5  # gRPC's own before each message
_CHECKPOINT_SECONDS: Final = 30


@dataclass(slots=True)
class Growth:
    """One run. Sizes are bytes, memory is MiB of (runner, daemon) by step."""

    streamed: int = 0
    messages: int = 0
    events: int = 0
    results: int = 0
    stored: int = 0
    memory: dict[int, tuple[float, float]] = field(default_factory=dict)

    def delta(self, which: int) -> float:
        """Memory late in the run minus early."""
        return self.memory[LATE][which] - self.memory[EARLY][which]


def measure(options: Options) -> Iterator[Result]:
    """One run; the figures are sizes, and the same in every run but for memory."""
    with running_daemon(options, min_idle=1, most=4) as daemon:
        grown = asyncio.run(_run(daemon))
    detail = {"tool_steps": TOOL_STEPS, "result_bytes": grown.results, "events": grown.events}
    yield judged("growth.store_kb", grown.stored / 1000, detail)
    yield judged("growth.stream_kb", grown.streamed / 1000, {**detail, "messages": grown.messages})
    for which, name in enumerate(("growth.runner_mib_delta", "growth.daemon_mib_delta")):
        at = {f"mib_at_{step}": round(grown.memory[step][which], 2) for step in (EARLY, LATE)}
        yield judged(name, grown.delta(which), at)


async def _run(daemon: Daemon) -> Growth:
    async with daemon.client() as client:
        await quiet(client, 1)
        await watched(client, "one-shot")
        await quiet(client, 1)
        before = await asyncio.to_thread(_store_bytes, daemon.state)
        job_id = (await client.create_job(request(EXPERT))).job.id
    grown = await _watch(daemon, job_id)
    grown.stored = await asyncio.to_thread(_store_bytes, daemon.state) - before
    least = (TOOL_STEPS - 1) * RESULT_BYTES  # the first step writes the file that the others read
    if grown.results < least:
        raise MeasurementError(f"the tools returned {grown.results} bytes in all, at least {least} were to come")
    if missing := {EARLY, LATE} - grown.memory.keys():
        raise MeasurementError(f"the run did not come to step {missing}")
    return grown


async def _watch(daemon: Daemon, job_id: str) -> Growth:
    """Watch the raw stream, because the client's values do not tell what they weighed."""
    grown, runner = Growth(), 0
    asked = jobs_pb2.WatchJobRequest(job_id=job_id, include_streaming=True)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        async for message in jobs_pb2_grpc.JobServiceStub(channel).WatchJob(asked, timeout=JOB_SECONDS):
            grown.streamed += message.ByteSize() + _FRAME_BYTES
            grown.messages += 1
            for event in message.events:
                runner = _note(daemon, grown, event, runner)
    return grown


def _note(daemon: Daemon, grown: Growth, event: events_pb2.Event, runner: int) -> int:
    """Count an event; returns the runner's pid as soon as it is known."""
    grown.events += 1
    match event.type:
        case "sandboxAssigned":
            (first,) = first_pids([json.loads(event.payload)["containerId"]])
            return max(cgroup_pids(first), key=rss_mib)
        case "resolveToolResults":
            grown.results += sum(len(part["text"]) for part in _parts(event.payload))
        case "startGeneration" if event.step_number in {EARLY, LATE}:
            grown.memory[event.step_number] = (rss_mib(runner), rss_mib(daemon.pid))
        case "jobFinished" if (end := json.loads(event.payload))["outcome"] != "completed":
            raise MeasurementError(f"the run did not complete: {end}")
    return runner


def _parts(payload: bytes) -> list[dict[str, str]]:
    results = json.loads(payload)["results"]
    return [part for result in results for part in result["content"] if part["type"] == "text"]


def _store_bytes(state: Path) -> int:
    """The database and its log, which is emptied first. Raises MeasurementError while readers hold it."""
    path = state / "perstackd.db"
    deadline = time.monotonic() + _CHECKPOINT_SECONDS
    with closing(sqlite3.connect(path, timeout=_CHECKPOINT_SECONDS)) as connection:
        while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > deadline:
                raise MeasurementError("the store's log could not be emptied: a reader holds it")
            time.sleep(0.1)
    log = path.with_name(path.name + "-wal")
    return path.stat().st_size + (log.stat().st_size if log.exists() else 0)
