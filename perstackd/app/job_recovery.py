"""Jobs that an earlier process began and did not end: read back from the store, with what they were started with."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from perstackd.app.begun_run import BegunRun, awaited, begun_runs
from perstackd.app.job_context import JobDefaults, job_context
from perstackd.app.job_log import JOB, Entry, JobLog, numbered
from perstackd.app.job_request import resolved
from perstackd.app.job_worker import JobTask
from perstackd.app.reenacting import reenactment_of
from perstackd.app.run_context import JobContext
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import (
    Event,
    JobCreated,
    JobFinished,
    Origin,
    SandboxAssigned,
    SandboxReleased,
    StopRunByError,
)
from perstackd.domain.ids import JobId, SandboxId
from perstackd.domain.job import EXIT_CODES, JobRecord, JobState
from perstackd.domain.reenactment import ReplayMode
from perstackd.domain.run_sandboxes import RunSandboxes
from perstackd.domain.run_state import Phase
from perstackd.domain.sandbox import SandboxRecord
from perstackd.domain.workspace import WorkspaceKind
from perstackd.ports.clock import Clock
from perstackd.ports.definitions import Definitions
from perstackd.ports.event_store import Store
from perstackd.ports.secrets import Sealer

UNFINISHED: Final = (JobState.QUEUED, JobState.RUNNING, JobState.WAITING)
_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Archives:
    """Where a job is read back from. `claimed` are rows of sandboxes that runs had, `coming` those that may come
    back.
    """

    store: Store
    definitions: Definitions
    sealer: Sealer
    clock: Clock
    claimed: tuple[SandboxRecord, ...] = ()
    coming: frozenset[SandboxId] = frozenset()


@dataclass(frozen=True, slots=True)
class Recovered:
    """A job that can go on."""

    context: JobContext
    task: JobTask

    @property
    def ended(self) -> bool:
        """Whether its coordinator has: all that is missing is the job's own end."""
        return any(not run.parent_run_id and run.state.end is not None for run in self.task.begun)

    @property
    def sandboxes(self) -> frozenset[SandboxId]:
        """Those that its runs may go on in."""
        return frozenset(held.sandbox_id for run in self.task.begun for held in run.sandboxes.held)


async def unfinished(store: Store) -> tuple[JobRecord, ...]:
    """Every job without an end, oldest first."""
    found: list[JobRecord] = []
    before: JobId | None = None
    while page := await store.jobs.page(None, UNFINISHED, before, _PAGE):
        found += page
        before = page[-1].id
    return tuple(reversed(found))


def check_workspace(record: JobRecord, there: Collection[JobId]) -> None:
    """A job must not go on in an empty directory as if it were its own; `there` are the jobs whose ephemeral workspace
    outlived the process.

    Raises:
        PerstackError: PRECONDITION `workspace_lost`.
    """
    runs_nothing = record.replay == ReplayMode.MODEL  # so nothing is in its workspace
    ephemeral = record.workspace.kind is WorkspaceKind.EPHEMERAL and not runs_nothing
    if ephemeral and record.state is not JobState.QUEUED and record.id not in there:
        message = "its ephemeral workspace did not outlive the host or the runtime directory; start the job again"
        raise PerstackError(Kind.PRECONDITION, "workspace_lost", message)


async def events_of(store: Store, job_id: JobId) -> list[Event]:
    """All events of a job, in order."""
    events: list[Event] = []
    while stored := await store.read(job_id, len(events), _PAGE):
        events.extend(each.event for each in stored)
    return events


async def recovered(archives: Archives, defaults: JobDefaults, log: JobLog) -> Recovered:
    """The job as it was when its process ended. Sandboxes that it held and that cannot come back are to be told gone.

    Raises:
        PerstackError: INTERNAL `job_unreadable` when its log does not begin as logs do; what reading the definition or
            its sealed values raises.
    """
    record = log.record
    events = await events_of(archives.store, record.id)
    created = events[0].payload if events else None
    if not isinstance(created, JobCreated):
        message = f"the log of job {record.id} does not begin with its creation"
        raise PerstackError(Kind.INTERNAL, "job_unreadable", message)
    log.begin_after(events[-1].timestamp)
    toml = (await archives.store.blobs.get(record.definition_digest)).decode()
    found = resolved(archives.definitions, toml, "perstack.toml", record.expert_key)
    env = await _env(archives, record.id)
    begun = tuple(_inhabitable(run, archives) for run in awaited(begun_runs(events)))
    kept = {held.sandbox_id for run in begun for held in run.sandboxes.held}
    held = _held(events)
    gone = tuple(_gone(each, origin) for each, origin in held.items() if each not in kept)
    coming = {sandbox_id: held[sandbox_id] for sandbox_id in kept}
    task = JobTask(found.experts, record.query, record.workspace, begun, gone, coming)
    replay = await reenactment_of(archives.store, created, events)
    return Recovered(job_context(created, found, defaults, log, env, replay=replay), task)


async def write_off(archives: Archives, record: JobRecord, why: PerstackError) -> None:
    """End a job that cannot go on."""
    events = await events_of(archives.store, record.id)
    message = f"the job could not be taken up again after a restart: {why.message}"
    stopped = StopRunByError(why.reason, message)
    open_runs = {event.origin.run_id: event.origin for event in events if event.origin.run_id}
    for run in begun_runs(events):
        if run.state.end is not None:
            del open_runs[run.run_id]
    entries = [_gone(each, origin) for each, origin in _held(events).items()]
    entries += [(origin, stopped) for origin in reversed(open_runs.values())]
    entries.append((JOB, JobFinished("failed", EXIT_CODES[JobState.FAILED], "", why.reason, message)))
    new = numbered(record, entries, archives.clock)
    ended = record.finished(JobState.FAILED, archives.clock.now_ms(), reason=why.reason, message=message)
    await archives.store.append(replace(ended, last_seq=new[-1].seq), new)


def sealed_env(sealer: Sealer, env: Mapping[str, str], job_id: JobId) -> bytes:
    """A job's values as they are kept; empty when it has none."""
    return sealer.seal(json.dumps(dict(env)).encode(), f"job:{job_id}") if env else b""


async def _env(archives: Archives, job_id: JobId) -> Mapping[str, str]:
    sealed = await archives.store.jobs.sealed_env(job_id)
    if not sealed:
        return {}
    opened = json.loads(archives.sealer.open(sealed, f"job:{job_id}"))
    return {str(name): str(value) for name, value in opened.items()}


def _inhabitable(run: BegunRun, archives: Archives) -> BegunRun:
    """The run with its fence as the rows have it, which a claim that was never written down may have raised; and with
    its sandboxes only if all of them may come back and are of that fence. Before its first fact it begins anew.
    """
    rows = {row.id: row for row in archives.claimed if row.run_id == run.run_id}
    fence = max((run.fence, *(row.fence for row in rows.values())))
    held = run.sandboxes.held
    whole = all(each.sandbox_id in archives.coming and each.sandbox_id in rows for each in held)
    goes_on = run.state.end is None and run.state.phase is not Phase.INIT
    if goes_on and whole and fence == run.sandboxes.fence:
        return replace(run, fence=fence)
    return replace(run, fence=fence, sandboxes=RunSandboxes())


def _gone(sandbox_id: SandboxId, origin: Origin) -> Entry:
    return origin, SandboxReleased(sandbox_id, "lost", "perstackd was restarted")


def _held(events: Sequence[Event]) -> dict[SandboxId, Origin]:
    """The sandboxes whose end nobody told of, and whose they are."""
    held: dict[SandboxId, Origin] = {}
    for event in events:
        match event.payload:
            case SandboxAssigned(sandbox_id=sandbox_id):
                held[sandbox_id] = event.origin
            case SandboxReleased(sandbox_id=sandbox_id):
                held.pop(sandbox_id, None)
            case _:
                pass
    return held
