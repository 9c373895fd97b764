"""Sandboxes: what a template asks for, what a record keeps, what a posture found."""

from dataclasses import dataclass, field
from enum import StrEnum

from perstackd.domain.ids import JobId, RunId, SandboxId, TenantId


class SandboxState(StrEnum):
    """From the intent row to the end; a sandbox is claimed at most once and never goes back."""

    STARTING = "starting"
    IDLE = "idle"
    CLAIMED = "claimed"
    REMOVING = "removing"


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of sandbox. Sizes are bytes. `cpus` may be a fraction. `exceptions` name each loosening on purpose
    (`domain.loosening`).

    `grant` is what a skill sandbox of it may reach beyond its skill's own hosts: nothing, or `package-indexes` when its
    skill installs a package.

    `memory` is memory and swap together and covers the tmpfs caps (they are charged to it) plus 256 MiB.
    """

    name: str
    image: str
    runtime: str = "runc"
    memory: int = 768 << 20
    cpus: float = 1.0
    cpu_shares: int = 256
    pids: int = 256
    nofile: int = 1024
    fsize: int = 1 << 30
    tmp_bytes: int = 64 << 20
    tmp_inodes: int = 16384
    home_bytes: int = 64 << 20
    home_inodes: int = 16384
    run_bytes: int = 4 << 20
    run_inodes: int = 1024
    shm_bytes: int = 1 << 20
    min_idle: int = 2
    max: int = 16
    grant: str = ""
    exceptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SandboxRecord:
    """The durable row of a sandbox, written before the engine is asked for it."""

    id: SandboxId
    template: str
    state: SandboxState
    uid: int
    created_at: int
    runtime: str = "runc"
    container_id: str = ""
    image_id: str = ""
    tenant: TenantId = TenantId("")
    job_id: JobId = JobId("")
    run_id: RunId = RunId("")
    fence: int = 0
    claimed_at: int = 0
    session_token_hash: str = ""


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
    """The compared state of one started sandbox, before any tenant data was inside."""

    sandbox_id: SandboxId
    checks: tuple[PostureCheck, ...]
    exceptions: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether it may be handed out."""
        return all(check.ok for check in self.checks)

    @property
    def failed(self) -> tuple[PostureCheck, ...]:
        """The differences."""
        return tuple(check for check in self.checks if not check.ok)
