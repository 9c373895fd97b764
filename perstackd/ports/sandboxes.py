"""The sandbox engine. The only door to Docker; every call has a deadline."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import Posture, SandboxRecord, Template


@dataclass(frozen=True, slots=True)
class SandboxDirectories:
    """Host paths of one sandbox, made by the caller before the start.

    `gateway` holds runner.sock and egress.sock (mounted read-only at /gw), `slot` receives the workspace
    (mounted rslave at /mnt), `identity` holds passwd and group.
    """

    gateway: str
    slot: str
    identity: str


class EndCause(StrEnum):
    """How a container ended, as the engine knows it."""

    RUNNING = "running"
    EXITED = "exited"
    OOM_KILLED = "oomKilled"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class ContainerEnd:
    """State of a container and, once it ended, its exit code."""

    cause: EndCause
    exit_code: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine says of itself."""

    version: str
    runtimes: tuple[str, ...]
    cgroup_version: int
    security: tuple[str, ...]


class Sandboxes(Protocol):
    """Starts, inspects and removes containers. Names them by the sandbox id."""

    async def info(self) -> EngineInfo:
        """Raises PerstackError UNAVAILABLE `engine_unavailable` when the engine does not answer in time."""
        ...

    async def image_id(self, image: str) -> str:
        """The image's id. Raises PerstackError NOT_FOUND `image_missing`, PRECONDITION `image_unfit`."""
        ...

    async def start(self, record: SandboxRecord, template: Template, directories: SandboxDirectories) -> str:
        """Create and start; returns the container id. What failed half-way is removed before the error is raised.

        Raises:
            PerstackError: UNAVAILABLE `engine_unavailable`; NOT_FOUND `image_missing`; PRECONDITION `start_failed`.
        """
        ...

    async def posture(self, record: SandboxRecord, template: Template) -> Posture:
        """Compare the effective state, read from the kernel and the engine, with the template."""
        ...

    async def end(self, sandbox_id: SandboxId) -> ContainerEnd:
        """How the container is, or how it ended."""
        ...

    async def remove(self, sandbox_id: SandboxId) -> None:
        """Kill and remove, confirmed by the engine on return. Idempotent."""
        ...

    async def ours(self) -> tuple[SandboxId, ...]:
        """Ids of all containers that carry this daemon's label, in any state."""
        ...
