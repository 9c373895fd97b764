"""Jobs as a client sees them: made, watched, timed; and the pool, waited for until it is quiet."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.experts import DEFINITION, QUERY, SECRET
from benchmarks.failure import MeasurementError
from perstackctl.client import Batch, Client, Definition, Event, JobRequest, Pool, Workspace, WorkspaceKind

JOB_SECONDS: Final = 120.0
QUIET_SECONDS: Final = 180.0
FROM_INSIDE: Final = "initializeRuntime"
_POLL_SECONDS: Final = 0.05
_SETTLE_SECONDS: Final = 0.1


@dataclass(slots=True)
class Watched:
    """A job as it came to its client. Times are seconds of perf_counter."""

    began: float
    job_id: str = ""
    events: list[tuple[float, Event]] = field(default_factory=list)

    def at(self, event_type: str) -> float:
        """When the first event of that type arrived. Raises MeasurementError when none did."""
        found = next((at for at, event in self.events if event.type == event_type), None)
        if found is None:
            raise MeasurementError(f"job {self.job_id} ended without {event_type}; it had {self.types()}")
        return found

    def types(self) -> list[str]:
        """Types of its events, in order."""
        return [event.type for _, event in self.events]

    def payloads(self, event_type: str) -> list[dict[str, Any]]:
        """Payloads of its events of that type."""
        return [json.loads(event.payload) for _, event in self.events if event.type == event_type]

    def ms_to(self, event_type: str) -> float:
        """From the call of RunJob to the arrival of the first event of that type."""
        return (self.at(event_type) - self.began) * 1000

    @property
    def claim_ms(self) -> float:
        """From the call of RunJob to the first event that came from inside its sandbox."""
        return self.ms_to(FROM_INSIDE)

    @property
    def seconds(self) -> float:
        """From the call of RunJob to the job's last event."""
        return self.at("jobFinished") - self.began


def request(expert: str) -> JobRequest:
    """A job with a managed workspace; with-secret also gets its secret."""
    return JobRequest(
        definition=Definition(DEFINITION, "perstack.toml"),
        expert_key=expert,
        query=QUERY,
        workspace=Workspace(WorkspaceKind.NAMED, "bench", shared=True),
        env={SECRET: "not-a-secret-0123456789"} if expert == "with-secret" else {},
    )


async def watched(
    client: Client, expert: str, *, until: str = "jobFinished", heard: Callable[[Event], None] | None = None
) -> Watched:
    """Make a job and watch it, to its end or to its first event of the type `until`; `heard` is called for each event.

    Raises:
        MeasurementError: the job did not complete, or not within JOB_SECONDS.
    """
    seen = Watched(time.perf_counter())
    try:
        async with asyncio.timeout(JOB_SECONDS):
            running = await client.run_job(request(expert))
            seen.job_id = running.created.job.id
            async with aclosing(running.batches()) as batches:
                async for batch in batches:
                    note(seen, batch, heard)
                    if until in (event.type for event in batch.events):
                        break
    except TimeoutError:
        message = f"job {seen.job_id} was not at {until} within {JOB_SECONDS:g} s; it had {seen.types()[-20:]}"
        raise MeasurementError(message) from None
    for end in seen.payloads("jobFinished"):
        if end["outcome"] != "completed":
            raise MeasurementError(f"job {seen.job_id} of {expert} did not complete: {end}")
    return seen


def note(seen: Watched, batch: Batch, heard: Callable[[Event], None] | None = None) -> None:
    """Add what came just now; `heard` is called for each event."""
    now = time.perf_counter()
    for event in batch.events:
        seen.events.append((now, event))
        if heard is not None:
            heard(event)


async def at_once(client: Client, expert: str, count: int, *, until: str = "jobFinished") -> Sequence[Watched]:
    """So many jobs, all asked for in one go. Raises as `watched` does."""
    try:
        async with asyncio.TaskGroup() as tasks:
            started = [tasks.create_task(watched(client, expert, until=until)) for _ in range(count)]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None  # one is enough to know
    return [task.result() for task in started]


# --- the pool -------------------------------------------------------------------------------------------------------
async def the_pools(client: Client) -> Sequence[Pool]:
    """The pools of a benchmark's daemon. Raises MeasurementError when one is halted."""
    pools = await client.pools()
    for pool in pools:
        if pool.halted:
            raise MeasurementError(f"the pool {pool.template} is halted: {pool.halted}")
    return pools


async def the_pool(client: Client) -> Pool:
    """The only pool of a benchmark's daemon. Raises MeasurementError when it is halted."""
    (pool,) = await the_pools(client)
    return pool


async def quiet(client: Client, idle: int) -> None:
    """Wait until each pool has `idle` warm sandboxes and none that is starting, claimed or going. Raises
    MeasurementError.
    """
    deadline = time.monotonic() + QUIET_SECONDS
    while True:
        pools = await the_pools(client)
        if all(_at_rest(pool, idle) for pool in pools):
            await asyncio.sleep(_SETTLE_SECONDS)
            return
        if time.monotonic() > deadline:
            raise MeasurementError(f"the pools did not come to rest within {QUIET_SECONDS:g} s: {pools}")
        await asyncio.sleep(_POLL_SECONDS)


def _at_rest(pool: Pool, idle: int) -> bool:
    return pool.idle >= idle and not (pool.starting or pool.claimed or pool.removing or pool.waiting)


async def idle_ids(client: Client) -> frozenset[str]:
    """Sandboxes that wait to be claimed."""
    return frozenset(sandbox.id for sandbox in await client.list_sandboxes() if sandbox.state == "idle")
