"""The daemon about itself."""

import platform
from dataclasses import dataclass

from perstackd.app.jobs import Jobs
from perstackd.app.warm_pool import WarmPool
from perstackd.domain.errors import PerstackError
from perstackd.ports.sandboxes import Sandboxes


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """What does not change while the daemon runs. `started_at` in milliseconds since the epoch."""

    version: str
    started_at: int
    workspace_roots: tuple[str, ...]
    state_directory: str
    default_provider: str
    default_model: str
    landlock_abi: int = 0


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """What `system info` shows."""

    facts: SystemFacts
    draining: bool
    engine_version: str
    engine_state: str
    cgroup_version: int
    kernel: str
    late_binding: bool
    late_binding_reason: str
    running_jobs: int
    queued_jobs: int


class System:
    """Asks the engine, the pool and the jobs."""

    def __init__(self, facts: SystemFacts, sandboxes: Sandboxes, pool: WarmPool, jobs: Jobs) -> None:
        self._facts = facts
        self._sandboxes = sandboxes
        self._pool = pool
        self._jobs = jobs

    async def info(self) -> SystemInfo:
        """Bounded by the engine's deadline; an engine that does not answer is part of the reply, not an error."""
        version, state, cgroup = "", "ok", 0
        try:
            engine = await self._sandboxes.info()
            version, cgroup = engine.version, engine.cgroup_version
        except PerstackError as error:
            state = error.message
        proven, reason = self._pool.late_binding()
        running, queued = self._jobs.counts()
        return SystemInfo(
            self._facts,
            self._jobs.draining,
            version,
            state,
            cgroup,
            platform.release(),
            proven,
            reason,
            running,
            queued,
        )
