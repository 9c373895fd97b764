"""What jobs' logs tell, as values. Times are milliseconds since the Unix epoch."""

from dataclasses import dataclass
from typing import Any

from perstackctl.client.values import Job, ReplayMode, Usage


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a run stood at the end of a step: `seq` names it in its job. `outcome` is empty when the run went on."""

    job_id: str
    seq: int
    run_id: str
    parent_run_id: str
    expert_key: str
    step_number: int
    timestamp_at: int
    outcome: str
    messages: int
    pending_calls: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class CheckpointContent:
    """A checkpoint with its history: JSON as the daemon keeps it."""

    checkpoint: Checkpoint
    call_id: str
    expert_version: str
    expert_digest: str
    definition_digest: str
    provider: str
    model: str
    messages: list[Any]
    pending: list[Any]
    results: list[Any]
    todos: list[Any]
    required_env: tuple[str, ...]
    env_paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first event that comes out otherwise: JSON, None where nothing is recorded or nothing is made."""

    seq: int
    run_id: str
    expert_key: str
    step_number: int
    recorded: Any
    made: Any


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of deciding a job's events anew."""

    events: int
    compared: int
    runs: int
    divergence: Divergence | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """The first event in which a replay differs from the job that it does again: `seq` and `run_id` are that job's,
    `made_seq` and `made_run_id` the replay's; 0, empty and None where one has nothing there. `field` is the first field
    that differs, as in turn.parts[0].text.
    """

    seq: int
    run_id: str
    made_seq: int
    made_run_id: str
    expert_key: str
    step_number: int
    field: str
    recorded: Any
    made: Any


@dataclass(frozen=True, slots=True)
class UnrecordedCall:
    """A call that the job which is done again did not make: it got an error. `seq` and `run_id` are the replay's."""

    seq: int
    run_id: str
    expert_key: str
    step_number: int
    tool: str
    arguments: Any


@dataclass(frozen=True, slots=True)
class LiveReplay:
    """How a replay compares with the job that it does again; `compared` state events were found again."""

    job_id: str
    replayed_job_id: str
    mode: ReplayMode | None
    compared: int
    runs: int
    divergence: Difference | None = None
    unrecorded_calls: tuple[UnrecordedCall, ...] = ()

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.divergence is None and not self.unrecorded_calls


@dataclass(frozen=True, slots=True)
class ImportedJob:
    """A job that is on the daemon now. `known`: it was before, with the same content."""

    job: Job
    known: bool
