"""The fold of a job's event stream: the job and the tree of its runs. Pure: no clock, no output.

Texts are kept as they came, bounded; painters clean them. A stream that is joined in the middle folds as well: runs
appear with their first event.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from perstackctl.client.questions import Question
from perstackctl.client.values import Batch, Event, StreamPiece, Usage
from perstackctl.watch import payload as p
from perstackctl.watch.run_trace import Run, fold_run, fold_run_piece


@dataclass(frozen=True, slots=True)
class Trace:
    """A job as far as it was seen. Times are milliseconds since the epoch by the daemon's clock."""

    job_id: str = ""
    expert: str = ""
    query: str = ""
    provider: str = ""
    model: str = ""
    workspace: str = ""
    queue: str = ""
    paused: bool = False
    started_at: int = 0
    last_at: int = 0
    last_seq: int = 0
    runs: Mapping[str, Run] = field(default_factory=dict)
    outcome: str = ""
    exit_code: int = 0
    answer: str = ""
    reason: str = ""
    message: str = ""

    @property
    def questions(self) -> tuple[Question, ...]:
        """What waits for a person, oldest first."""
        return tuple(sorted((q for run in self.runs.values() for q in run.questions), key=lambda q: q.asked_at))

    @property
    def stalled(self) -> bool:
        """Whether there are questions and nothing else goes on: each run asks, or waits for runs that do."""
        active = [run for run in self.runs.values() if not run.outcome]
        callers = {run.parent_id for run in active}
        return any(run.questions for run in active) and all(run.questions or run.id in callers for run in active)

    @property
    def usage(self) -> Usage:
        """The tokens of all runs."""
        return sum((run.usage for run in self.runs.values()), Usage())

    def children(self, run_id: str) -> tuple[Run, ...]:
        """The runs below one, in the order of their start; those of the job itself for an empty id."""
        known = self.runs
        if run_id:
            return tuple(run for run in known.values() if run.parent_id == run_id)
        return tuple(run for run in known.values() if run.parent_id not in known)

    def depth(self, run_id: str) -> int:
        """How many runs stand above one."""
        depth, run = 0, self.runs.get(run_id)
        while run is not None and run.parent_id in self.runs and depth < len(self.runs):
            depth, run = depth + 1, self.runs.get(run.parent_id)
        return depth


def fold(trace: Trace, batch: Batch) -> Trace:
    """The trace after a batch.

    Raises:
        ProtocolError: a payload is not a JSON object.
    """
    for event in batch.events:
        trace = fold_event(trace, event)
    for piece in batch.pieces:
        trace = fold_piece(trace, piece)
    return trace


def fold_event(trace: Trace, event: Event) -> Trace:
    """The trace after one stored event; an event that was seen before changes nothing."""
    if event.seq <= trace.last_seq:
        return trace
    fields = p.fields_of(event)
    trace = replace(
        trace,
        job_id=event.job_id,
        last_seq=event.seq,
        last_at=event.timestamp,
        started_at=trace.started_at or event.timestamp,
    )
    if not event.run_id:
        return _fold_job(trace, event, fields)
    run = trace.runs.get(event.run_id) or Run(
        event.run_id, event.parent_run_id, event.expert_key, started_at=event.timestamp
    )
    return _with_run(trace, fold_run(run, event, fields))


def _fold_job(trace: Trace, event: Event, fields: p.Fields) -> Trace:
    match event.type:
        case "jobCreated":
            return replace(
                trace,
                expert=p.text(fields, "expertKey"),
                query=p.text(fields, "query"),
                provider=p.text(fields, "provider"),
                model=p.text(fields, "model"),
                workspace=p.text(fields, "workspace"),
            )
        case "jobQueued":
            return replace(trace, queue=f"place {p.number(fields, 'place')}: {p.text(fields, 'reason')}")
        case "jobAdmitted":
            return replace(trace, queue="")
        case "jobPaused" | "jobResumed":
            return replace(trace, paused=event.type == "jobPaused")
        case "jobFinished":
            return replace(
                trace,
                outcome=p.text(fields, "outcome"),
                exit_code=p.number(fields, "exitCode"),
                answer=p.text(fields, "answer"),
                reason=p.text(fields, "reason"),
                message=p.text(fields, "message"),
                queue="",
                paused=False,
            )
        case _:
            return trace


def _with_run(trace: Trace, run: Run) -> Trace:
    return replace(trace, runs={**trace.runs, run.id: run})


def fold_piece(trace: Trace, piece: StreamPiece) -> Trace:
    """The trace after a piece of text; pieces of runs that are not known, or that ended, change nothing."""
    run = trace.runs.get(piece.run_id)
    return _with_run(trace, fold_run_piece(run, piece)) if run else trace
