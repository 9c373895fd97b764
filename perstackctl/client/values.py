"""What the daemon says and is told, as values. Times are milliseconds since the Unix epoch, 0 while not reached."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from perstackctl.client.resolution import Finding


class JobState(StrEnum):
    """Where a job stands; the last five are final."""

    UNSPECIFIED = "unspecified"
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


_FINAL: Final = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.STOPPED, JobState.CANCELLED, JobState.REFUSED})

# What `perstackctl run` ends with.
EXIT_CODES: Final[Mapping[JobState, int]] = {
    JobState.COMPLETED: 0,
    JobState.FAILED: 1,
    JobState.STOPPED: 3,
    JobState.WAITING: 4,
    JobState.CANCELLED: 5,
    JobState.REFUSED: 6,
}


class ReplayMode(StrEnum):
    """What of another job a job does again in earnest; the rest is the other's record."""

    MODEL = "liveModel"
    TOOLS = "liveTools"


class WorkspaceKind(StrEnum):
    """Where a job's directory comes from."""

    EPHEMERAL = "ephemeral"
    NAMED = "named"
    PATH = "path"


class SandboxState(StrEnum):
    """From the start to the end of a sandbox."""

    UNSPECIFIED = "unspecified"
    STARTING = "starting"
    IDLE = "idle"
    CLAIMED = "claimed"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens; `cached_input_tokens` is part of `input_tokens`."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


@dataclass(frozen=True, slots=True)
class Workspace:
    """Which directory a job works in. `value` is the name or the absolute host path; empty for ephemeral. `shared`:
    other jobs that say so too may work in the named one at the same time.
    """

    kind: WorkspaceKind = WorkspaceKind.EPHEMERAL
    value: str = ""
    read_only: bool = False
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Definition:
    """The text of one perstack.toml; `source` is where it was found, shown in messages."""

    toml: str
    source: str = "perstack.toml"


@dataclass(frozen=True, slots=True)
class Budgets:
    """What all runs of a job together may use; 0 means that nothing is said. Money is millionths of a US dollar.

    The wall clock, in milliseconds, runs from the job's creation; waits for people and pauses do not count.
    """

    max_steps: int = 0
    wall_clock_ms: int = 0
    tokens: int = 0
    microdollars: int = 0
    tool_calls: int = 0


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job to be made. A non-empty `idempotency_key` makes it safe to send again. `env` is never shown or logged."""

    definition: Definition
    expert_key: str
    query: str
    workspace: Workspace = Workspace()
    tenant: str = ""
    idempotency_key: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    allow_domains: tuple[str, ...] = ()
    max_steps: int = 0
    model: str = ""
    provider: str = ""
    budgets: Budgets = Budgets()
    parent: "Parent | None" = None


@dataclass(frozen=True, slots=True)
class Parent:
    """The job that a new one goes on from: `checkpoint` is the number of its event or RUN/STEP, empty for the last. The
    definition and the expert are the parent's then; with `same_workspace` so is the workspace. With `replay` the new
    job does it again from its beginning.
    """

    job_id: str
    checkpoint: str = ""
    same_workspace: bool = False
    replay: ReplayMode | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One request as the daemon keeps it. `cost_microdollars` is a part of the cost while `cost_known` is false. With
    `replay` it does its parent again.
    """

    id: str
    tenant: str
    state: JobState
    expert_key: str
    query: str
    created_at: int = 0
    finished_at: int = 0
    steps: int = 0
    runs: int = 0
    usage: Usage = Usage()
    answer: str = ""
    error_reason: str = ""
    error_message: str = ""
    exit_code: int = 0
    last_seq: int = 0
    workspace: Workspace = Workspace()
    queue_place: int = 0
    queue_reason: str = ""
    provider: str = ""
    model: str = ""
    budgets: Budgets = Budgets()
    tool_calls: int = 0
    cost_microdollars: int = 0
    cost_known: bool = False
    paused: bool = False
    open_questions: int = 0
    parent_job_id: str = ""
    parent_seq: int = 0
    replay: ReplayMode | None = None


@dataclass(frozen=True, slots=True)
class CreatedJob:
    """A job that is durable, and what was found in its definition that did not stop it."""

    job: Job
    warnings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Event:
    """A stored event. `payload` is the daemon's canonical JSON, byte for byte."""

    id: str
    seq: int
    schema: int
    type: str
    tenant: str
    job_id: str
    run_id: str
    parent_run_id: str
    expert_key: str
    step_number: int
    timestamp: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class StreamPiece:
    """A live-only piece of text: `offset` in UTF-8 bytes of the text that `stream_id` names."""

    after_seq: int
    stream_id: str
    offset: int
    type: str
    job_id: str
    run_id: str
    expert_key: str
    step_number: int
    delta: str
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """What arrived at once: the stored events in order, then the pieces."""

    events: tuple[Event, ...] = ()
    pieces: tuple[StreamPiece, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """One expert's activation in a job. `outcome` is empty while it goes on."""

    id: str
    job_id: str
    parent_run_id: str
    expert_key: str
    phase: str
    step_number: int
    usage: Usage
    sandbox_ids: tuple[str, ...]
    started_at: int
    finished_at: int
    outcome: str
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A container that was started for one run."""

    id: str
    tenant: str
    template: str
    state: SandboxState
    container_id: str
    image_id: str
    uid: int
    job_id: str
    run_id: str
    fence: int
    created_at: int
    claimed_at: int
    runtime: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PostureCheck:
    """One field as the template asks for it and as the kernel or engine has it."""

    name: str
    expected: str
    actual: str
    ok: bool
    cis: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Posture:
    """What the kernel says about a sandbox. `exceptions` are weakenings that its template names on purpose."""

    sandbox_id: str
    ok: bool
    checks: tuple[PostureCheck, ...]
    exceptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pool:
    """Warm sandboxes of one template. `halted` is why refill is stopped; refill times are milliseconds. `wanted_idle`
    are kept idle now, between `min_idle` and `max`.
    """

    template: str
    tenant: str
    image: str
    image_id: str
    min_idle: int
    max: int
    starting: int
    idle: int
    claimed: int
    removing: int
    waiting: int
    halted: str
    failures: int
    started_total: int
    claimed_total: int
    refill_p50_ms: float
    refill_p99_ms: float
    wanted_idle: int = 0


@dataclass(frozen=True, slots=True)
class Info:
    """The daemon itself."""

    version: str
    state: str
    started_at: int
    engine_version: str
    engine_state: str
    kernel: str
    cgroup_version: int
    late_binding: bool
    late_binding_reason: str
    workspace_roots: tuple[str, ...]
    state_directory: str
    default_provider: str
    default_model: str
    landlock_abi: int
    running_jobs: int
    queued_jobs: int
