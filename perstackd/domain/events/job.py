"""What happens to a job as a whole."""

from dataclasses import dataclass, field
from typing import Literal

from perstackd.domain.budget import Budgets


@dataclass(frozen=True, slots=True)
class JobCreated:
    """A caller's request was accepted. `definition_digest` names the definition blob that it is pinned to; `asked_...`
    are what the caller put in place of the definition's model. A job that goes on from another's checkpoint names that
    job, and the event that the checkpoint stands at; one that replays another names it, and how (`ReplayMode`).
    """

    expert_key: str
    query: str
    definition_digest: str
    workspace: str
    provider: str
    model: str
    required_env: tuple[str, ...] = ()
    allow_domains: tuple[str, ...] = ()
    template: str = ""
    skills_template: str = ""
    asked_provider: str = ""
    asked_model: str = ""
    budgets: Budgets = field(default_factory=Budgets)
    parent_job_id: str = ""
    parent_seq: int = 0
    replay: str = ""
    type: Literal["jobCreated"] = "jobCreated"


@dataclass(frozen=True, slots=True)
class JobQueued:
    """It waits: its place (1 is next) and why."""

    place: int
    reason: str
    type: Literal["jobQueued"] = "jobQueued"


@dataclass(frozen=True, slots=True)
class JobAdmitted:
    """Its coordinator's run begins."""

    type: Literal["jobAdmitted"] = "jobAdmitted"


@dataclass(frozen=True, slots=True)
class JobPaused:
    """Its runs finish the step in hand and start no other."""

    type: Literal["jobPaused"] = "jobPaused"


@dataclass(frozen=True, slots=True)
class JobResumed:
    """Its runs go on."""

    type: Literal["jobResumed"] = "jobResumed"


@dataclass(frozen=True, slots=True)
class JobFinished:
    """The last event of a job. `outcome` is completed, failed, stopped, cancelled or refused."""

    outcome: str
    exit_code: int
    answer: str = ""
    reason: str = ""
    message: str = ""
    type: Literal["jobFinished"] = "jobFinished"
