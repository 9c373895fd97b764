"""What the runs of one job share, and what one run is asked to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from perstackd.app.job_log import JobLog
from perstackd.app.reach import Reach
from perstackd.app.scrubbing import Scrubber, Scrubbing
from perstackd.app.secrets import ReleasedSecrets, SentSecrets
from perstackd.app.standing import Standing
from perstackd.app.tool_lists import ToolLists
from perstackd.app.warm_pool import WarmPool
from perstackd.domain.commands import Cancel, Stop
from perstackd.domain.context_window import ContextWindows
from perstackd.domain.events import Origin
from perstackd.domain.expert import Definition, Expert, ModelChoice
from perstackd.domain.ids import JobId, RunId, TenantId
from perstackd.domain.messages import ToolSpec, Usage
from perstackd.domain.model_tiers import Tiers
from perstackd.domain.reenactment import Reenactment
from perstackd.domain.run_sandboxes import RunSandboxes
from perstackd.ports.clock import Clock
from perstackd.ports.egress import Egress
from perstackd.ports.event_store import Blobs
from perstackd.ports.models import Models
from perstackd.ports.package_indexes import PackageIndexes
from perstackd.ports.workspaces import Workspaces

Price: TypeAlias = Callable[[str, str, Usage], int | None]
"""Millionths of a dollar of a model's tokens: (provider, model, usage); None when its price is not known."""


def _unknown_price(_provider: str, _model: str, _usage: Usage) -> None:
    return None


@dataclass(frozen=True, slots=True)
class RunServices:
    """Ports and the pool, the same for all jobs."""

    pool: WarmPool
    workspaces: Workspaces
    egress: Egress
    models: Models
    blobs: Blobs
    clock: Clock
    base_tools: tuple[ToolSpec, ...]
    package_indexes: PackageIndexes = field(default_factory=PackageIndexes)
    price: Price = _unknown_price
    tool_lists: ToolLists = field(default_factory=ToolLists)
    windows: ContextWindows = field(default_factory=ContextWindows)
    secrets: ReleasedSecrets = field(default_factory=SentSecrets)
    scrubbing: Scrubbing = field(default_factory=Scrubbing)
    reach: Reach = field(default_factory=Reach)


@dataclass(frozen=True, slots=True)
class RunLimits:
    """Operator's bounds on one run. Milliseconds and bytes. `answer_margin_ms` is what a sandbox gets beyond its tools'
    own bounds before it counts as silent. `ask_hold_ms` is how long a run that only waits for people keeps its
    sandboxes.
    """

    max_retries: int = 5
    generation_timeout_ms: int = 300_000
    tool_timeout_ms: int = 60_000
    skill_start_timeout_ms: int = 60_000
    inline_result_bytes: int = 32 << 10
    result_bytes: int = 10 << 20
    answer_margin_ms: int = 30_000
    ask_hold_ms: int = 60_000


@dataclass(slots=True)
class StopOrder:
    """Set before a job's scope is cancelled: why its runs end. None: they do not, another process takes them up."""

    command: Stop | None = field(default_factory=Cancel)


@dataclass(frozen=True, slots=True)
class JobContext:
    """A job as its runs see it. `env` holds secret values: never log it. `replay` is the job that it does again."""

    job_id: JobId
    tenant: TenantId
    created_at: int
    definition: Definition
    template: str
    skills_template: str
    model: ModelChoice
    default_model: ModelChoice
    tiers: Tiers
    read_only: bool
    env: Mapping[str, str] = field(repr=False)
    allow_domains: tuple[str, ...]
    limits: RunLimits
    log: JobLog
    stop: StopOrder
    standing: Standing
    scrubber: Scrubber = field(default_factory=Scrubber)
    replay: Reenactment | None = None


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One activation of an expert. `call_id` is the parent's call that it answers; empty for the coordinator. `fence`
    is the highest of the sandboxes that it had before; `sandboxes` are those that it may come back into.
    """

    run_id: RunId
    expert: Expert
    query: str
    depth: int = 0
    parent_run_id: RunId = RunId("")
    call_id: str = ""
    fence: int = 0
    sandboxes: RunSandboxes = field(default_factory=RunSandboxes)

    def origin(self, step: int) -> Origin:
        """Where its events come from."""
        return Origin(self.run_id, self.parent_run_id, self.expert.key, step)
