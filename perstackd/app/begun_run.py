"""Runs that an earlier process began, folded from their job's log."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from perstackd.domain.events import Event
from perstackd.domain.ids import RunId
from perstackd.domain.run_fold import evolve
from perstackd.domain.run_record import RUN_FACTS
from perstackd.domain.run_sandboxes import RunSandboxes, followed
from perstackd.domain.run_state import Phase, RunState
from perstackd.domain.tool_calls import pending_delegations


@dataclass(frozen=True, slots=True)
class BegunRun:
    """A run as its log tells of it. `fence` is the highest that its sandboxes had; `sandboxes` are those that it goes
    on in, should they come back.
    """

    run_id: RunId
    parent_run_id: RunId
    call_id: str
    state: RunState
    fence: int = 0
    sandboxes: RunSandboxes = field(default_factory=RunSandboxes)


def begun_runs(events: Iterable[Event]) -> tuple[BegunRun, ...]:
    """The job's runs that have at least their first fact, in order. `events` are the job's, in order.

    A run whose sandbox was claimed but that has not begun is not among them: it is begun anew under another id.
    """
    runs: dict[RunId, BegunRun] = {}
    for event in events:
        run_id, parent = event.origin.run_id, event.origin.parent_run_id
        if run_id:
            runs[run_id] = _after(runs.get(run_id) or BegunRun(run_id, parent, "", RunState()), event)
    return tuple(run for run in runs.values() if run.state.start is not None)


def _after(run: BegunRun, event: Event) -> BegunRun:
    payload, state = event.payload, run.state
    if isinstance(payload, RUN_FACTS):
        state = evolve(state, payload)
    sandboxes = followed(run.sandboxes, payload, event.origin.step, run.state, state)
    return replace(
        run,
        state=state,
        call_id=state.start.call_id if state.start else "",
        fence=max(run.fence, sandboxes.fence),
        sandboxes=sandboxes,
    )


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
