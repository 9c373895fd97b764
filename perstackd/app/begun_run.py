"""Runs that an earlier process began, folded from their job's log."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from perstackd.domain.events import Event, SandboxAssigned
from perstackd.domain.ids import RunId
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_record import RUN_FACTS
from perstackd.domain.run_state import Phase, RunState
from perstackd.domain.tool_calls import pending_delegations


@dataclass(frozen=True, slots=True)
class BegunRun:
    """A run as its log tells of it. `fence` is the highest of its sandboxes."""

    run_id: RunId
    parent_run_id: RunId
    call_id: str
    state: RunState
    fence: int = 0


def begun_runs(events: Iterable[Event]) -> tuple[BegunRun, ...]:
    """The job's runs that have at least their first fact, in order. `events` are the job's, in order.

    A run whose sandbox was claimed but that has not begun is not among them: it is begun anew under another id.
    """
    runs: dict[RunId, BegunRun] = {}
    for event in events:
        run_id, parent = event.origin.run_id, event.origin.parent_run_id
        if not run_id:
            continue
        run = runs.get(run_id) or BegunRun(run_id, parent, "", RunState())
        if isinstance(event.payload, SandboxAssigned):
            run = replace(run, fence=max(run.fence, event.payload.fence))
        elif isinstance(event.payload, RUN_FACTS):
            state = evolve(run.state, event.payload)
            run = replace(run, state=state, call_id=state.start.call_id if state.start else "")
        runs[run_id] = run
    return tuple(run for run in runs.values() if run.state.start is not None)


def awaited(runs: Iterable[BegunRun]) -> tuple[BegunRun, ...]:
    """The coordinator, and the children that somebody still waits for: those that answer a delegation which has no
    result yet. A model may use a call's id again in a later turn, so the last run of an id counts.
    """
    by_id = {run.run_id: run for run in runs}
    found: dict[tuple[RunId, str], BegunRun] = {}
    for run in by_id.values():
        parent = by_id.get(run.parent_run_id)
        if not run.parent_run_id or (parent is not None and run.call_id in _delegated(parent.state)):
            found[run.parent_run_id, run.call_id] = run
    return tuple(found.values())


def _delegated(state: RunState) -> frozenset[str]:
    if state.phase is not Phase.DELEGATING:
        return frozenset()
    return frozenset(call.call_id for call in pending_delegations(state))
