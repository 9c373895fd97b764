"""What goes into a claim and what comes out of it."""

from dataclasses import dataclass

from perstackd.domain.ids import JobId, RunId, TenantId
from perstackd.domain.sandbox import SandboxRecord, Template
from perstackd.domain.session import Hello
from perstackd.ports.runner_link import RunnerLink

WORKSPACE_PATH = "/mnt/workspace"


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A run asks for a sandbox. `depth` is 0 for a job's first run; `fence` was raised for this claim. `role` is the
    name of the skill that gets it, empty for the expert itself.
    """

    tenant: TenantId
    job_id: JobId
    run_id: RunId
    template: str
    depth: int
    fence: int
    job_created_at: int
    role: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """A sandbox that is the run's until it is released. `slot` is the host directory that takes the workspace.

    `link.asks()` goes on exactly where the pool stopped reading; a loss since then comes as its LinkLost.
    """

    record: SandboxRecord
    template: Template
    link: RunnerLink
    hello: Hello
    slot: str
    workspace_path: str = WORKSPACE_PATH
