"""What is shown of a run: a fold of its job's events, the same for a run that goes on and one long ended."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, get_args

from perstackd.domain.events import Event, Origin, RunPayload, SandboxAssigned, StartRun
from perstackd.domain.ids import JobId, RunId, SandboxId, TenantId
from perstackd.domain.messages import Usage
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_state import RunState

RUN_FACTS: Final = get_args(RunPayload)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run. Times are milliseconds since the epoch, 0 while not reached; `outcome` is empty while it goes on."""

    id: RunId
    job_id: JobId
    tenant: TenantId
    parent_run_id: RunId
    expert_key: str
    phase: str
    step: int
    usage: Usage
    sandbox_ids: tuple[SandboxId, ...] = ()
    started_at: int = 0
    finished_at: int = 0
    outcome: str = ""

    @property
    def origin(self) -> Origin:
        """Where its next event comes from."""
        return Origin(self.id, self.parent_run_id, self.expert_key, self.step)


def run_records(events: Iterable[Event]) -> tuple[RunRecord, ...]:
    """The runs of a job in order of their first event. `events` are the job's, in order."""
    records: dict[RunId, RunRecord] = {}
    states: dict[RunId, RunState] = {}
    for event in events:
        run_id = event.origin.run_id
        if not run_id:
            continue
        record = records.get(run_id) or _new(event)
        if isinstance(event.payload, RUN_FACTS):
            states[run_id] = evolve(states.get(run_id, RunState()), event.payload)
            record = _told(record, states[run_id], event)
        elif isinstance(event.payload, SandboxAssigned):
            record = replace(record, sandbox_ids=(*record.sandbox_ids, event.payload.sandbox_id))
        records[run_id] = record
    return tuple(records.values())


def _new(event: Event) -> RunRecord:
    origin = event.origin
    return RunRecord(
        origin.run_id,
        event.job_id,
        event.tenant,
        origin.parent_run_id,
        origin.expert_key,
        RunState().phase.value,
        1,
        Usage(),
        started_at=event.timestamp,
    )


def _told(record: RunRecord, state: RunState, event: Event) -> RunRecord:
    ended = state.end.outcome.value if state.end else ""
    started = event.timestamp if isinstance(event.payload, StartRun) else record.started_at
    return replace(
        record,
        phase=state.phase.value,
        step=state.step,
        usage=state.usage,
        started_at=started,
        finished_at=event.timestamp if ended else 0,
        outcome=ended,
    )
