"""What happens to a run's sandbox, what goes into it, and what it tries to reach."""

from dataclasses import dataclass
from typing import Literal

from perstackd.domain.ids import SandboxId


@dataclass(frozen=True, slots=True)
class SandboxAssigned:
    """A sandbox was claimed for the run; `fence` rises with each."""

    sandbox_id: SandboxId
    container_id: str
    fence: int
    template: str
    role: str = "expert"
    type: Literal["sandboxAssigned"] = "sandboxAssigned"


@dataclass(frozen=True, slots=True)
class SandboxReleased:
    """The run gave it up. `cause`: finished, cancelled, oomKilled, exited, lost, misbehaved, drained, unknown."""

    sandbox_id: SandboxId
    cause: str
    detail: str = ""
    type: Literal["sandboxReleased"] = "sandboxReleased"


@dataclass(frozen=True, slots=True)
class InitializeRuntime:
    """The runner inside took over: the first event that comes from a sandbox."""

    sandbox_id: SandboxId
    runner_version: str
    workspace_path: str
    type: Literal["initializeRuntime"] = "initializeRuntime"


@dataclass(frozen=True, slots=True)
class SecretReleased:
    """A value went into the sandbox: its name only, and for which skill."""

    name: str
    skill: str
    type: Literal["secretReleased"] = "secretReleased"


@dataclass(frozen=True, slots=True)
class EgressDenied:
    """A connection out was refused; the reason says which rule."""

    host: str
    port: int
    reason: str
    type: Literal["egressDenied"] = "egressDenied"


@dataclass(frozen=True, slots=True)
class ProxyAccess:
    """A connection out ended; `reason` is why it was cut, empty after a clean end."""

    host: str
    port: int
    bytes_up: int
    bytes_down: int
    duration_ms: int
    reason: str = ""
    type: Literal["proxyAccess"] = "proxyAccess"
