"""A finished job with many events, written through the store: what reads of a long log are measured on."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from perstackd.adapters.clock import SystemClock
from perstackd.adapters.store.sqlite import open_store
from perstackd.app.job_log import JOB, Entry, numbered
from perstackd.domain.events import (
    CallTools,
    CompleteRun,
    ContinueToNextStep,
    Event,
    FinishToolCall,
    JobCreated,
    JobFinished,
    Origin,
    ResolveToolResults,
    StartGeneration,
    StartRun,
)
from perstackd.domain.ids import DEFAULT_TENANT, JobId, RunId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.messages import FinishReason, TextPart, ToolCallPart, ToolResultPart, Turn, Usage
from perstackd.domain.workspace import WorkspaceSpec

BATCH: Final = 500
_EVENTS_A_STEP: Final = 5


def record(job_id: JobId, now: int) -> JobRecord:
    """A job that has just been created."""
    return JobRecord(
        id=job_id,
        tenant=DEFAULT_TENANT,
        state=JobState.RUNNING,
        expert_key="stepper",
        query="Go on.",
        created_at=now,
        workspace=WorkspaceSpec(),
        provider="scripted",
        model="script",
        definition_digest="sha256:" + "0" * 64,
    )


def entries(run_id: RunId, count: int) -> Iterator[Entry]:
    """About `count` facts of a run that takes one small tool step after the other, and completes."""
    yield JOB, JobCreated("stepper", "Go on.", "sha256:" + "0" * 64, "ephemeral", "scripted", "script")
    start = StartRun("Go on.", "You are stepper.", (), (), "scripted", "script", "low")
    yield _origin(run_id, 1), start
    for step in range(1, count // _EVENTS_A_STEP):
        yield from ((_origin(run_id, step), fact) for fact in _step(step))
    yield _origin(run_id, count), CompleteRun("Done.", Usage())
    yield JOB, JobFinished("completed", 0, "Done.")


def _step(step: int) -> tuple[StartGeneration, CallTools, ResolveToolResults, FinishToolCall, ContinueToNextStep]:
    call = f"call-{step}"
    turn = Turn((ToolCallPart(call, "healthCheck", {}),), FinishReason.TOOL_CALLS, Usage(10, 5), "script")
    result = ToolResultPart(call, (TextPart('{"status":"ok"}'),))
    return (
        StartGeneration(),
        CallTools(turn),
        ResolveToolResults((result,)),
        FinishToolCall(),
        ContinueToNextStep(step + 1),
    )


def _origin(run_id: RunId, step: int) -> Origin:
    return Origin(run_id, RunId(""), "stepper", step)


def made(count: int) -> tuple[JobRecord, Sequence[Event]]:
    """The record and the events of a job of about `count` events."""
    clock = SystemClock()
    job = record(JobId(clock.new_id()), clock.now_ms())
    return job, numbered(job, list(entries(RunId(clock.new_id()), count)), clock)


def write(state: Path, count: int) -> tuple[JobId, int]:
    """Write such a job into the store of a daemon that does not run; its id, and how many events it has."""
    job, events = made(count)
    asyncio.run(_write(state, job, events))
    return job.id, len(events)


async def _write(state: Path, job: JobRecord, events: Sequence[Event]) -> None:
    async with await open_store(state) as store:
        await store.create(replace(job, last_seq=1), events[:1])
        for begin in range(1, len(events), BATCH):
            batch = events[begin : begin + BATCH]
            last = batch[-1]
            ended = job.finished(JobState.COMPLETED, last.timestamp, answer="Done.")
            await store.append(replace(ended if last is events[-1] else job, last_seq=last.seq), batch)
