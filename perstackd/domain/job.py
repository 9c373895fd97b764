"""Jobs: one request, carried out by a tree of runs. The record is a projection of the job's events."""

from dataclasses import dataclass, field, replace
from enum import StrEnum

from perstackd.domain.budget import Budgets
from perstackd.domain.ids import JobId, TenantId
from perstackd.domain.messages import Usage
from perstackd.domain.workspace import WorkspaceSpec


class JobState(StrEnum):
    """Where a job stands; the last five are final."""

    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    CANCELLED = "cancelled"
    REFUSED = "refused"

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self in _FINAL


_FINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.STOPPED, JobState.CANCELLED, JobState.REFUSED})

EXIT_CODES: dict[JobState, int] = {
    JobState.COMPLETED: 0,
    JobState.FAILED: 1,
    JobState.STOPPED: 3,
    JobState.WAITING: 4,
    JobState.CANCELLED: 5,
    JobState.REFUSED: 6,
}


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What lists and look-ups show. Times are milliseconds since the epoch, 0 while not reached. `microdollars` are
    what its turns cost by the price table; not `cost_known` when a model's price was not in it. `worked_ms` is how long
    it was at work until its last event, where it has a limit. `replay` is the `ReplayMode` in which it does its
    parent again, empty when it does not.
    """

    id: JobId
    tenant: TenantId
    state: JobState
    expert_key: str
    query: str
    created_at: int
    workspace: WorkspaceSpec
    provider: str
    model: str
    definition_digest: str
    idempotency_key: str = ""
    request_digest: str = ""
    finished_at: int = 0
    steps: int = 0
    runs: int = 0
    usage: Usage = field(default_factory=Usage)
    tool_calls: int = 0
    microdollars: int = 0
    cost_known: bool = True
    budgets: Budgets = field(default_factory=Budgets)
    paused: bool = False
    open_questions: int = 0
    answer: str = ""
    error_reason: str = ""
    error_message: str = ""
    last_seq: int = 0
    parent_job_id: str = ""
    parent_seq: int = 0
    worked_ms: int = 0
    replay: str = ""

    @property
    def exit_code(self) -> int:
        """What `perstackctl run` exits with; 0 while the job goes on."""
        return EXIT_CODES.get(self.state, 0)

    def finished(
        self, state: JobState, now: int, *, answer: str = "", reason: str = "", message: str = ""
    ) -> "JobRecord":
        """The record once the job ended."""
        return replace(
            self,
            state=state,
            finished_at=now,
            answer=answer,
            error_reason=reason,
            error_message=message,
            paused=False,
            open_questions=0,
        )
