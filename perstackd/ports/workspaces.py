"""Workspaces on the host: found, made, attached to a running sandbox, detached."""

from collections.abc import Collection
from typing import Protocol

from perstackd.domain.ids import JobId, SandboxId, TenantId
from perstackd.domain.workspace import WorkspaceSpec


class Workspaces(Protocol):
    """The only code that mounts. A workspace is opened once per job and attached to each of its sandboxes."""

    async def prepare(self, slot: str, uid: int) -> None:
        """Make the slot directory of a new sandbox, below a shared mount, and what an attach to its `uid` will need.

        A claim then waits for nothing but the mount.
        """
        ...

    async def open(self, job_id: JobId, tenant: TenantId, spec: WorkspaceSpec) -> None:
        """Find or make the job's workspace and hold it by descriptor.

        Raises:
            PerstackError: DENIED `workspace_outside_roots`, `workspace_owner_refused` (uid below 1000); NOT_FOUND
            `workspace_not_found`;
                PRECONDITION `workspace_unsupported` (the file system refuses idmapped mounts). Each says the remedy.
        """
        ...

    async def settle(self, job_ids: Collection[JobId]) -> frozenset[JobId]:
        """Take away what earlier processes left of other jobs' ephemeral workspaces; returns the jobs of `job_ids`
        whose ephemeral workspace is there with its content. To be called before the first `open`.
        """
        ...

    async def attach(
        self, job_id: JobId, sandbox_id: SandboxId, slot: str, uid: int, *, read_only: bool = False
    ) -> None:
        """Mount it, idmapped to `uid`, nosuid and nodev, at `slot`/workspace; flags are verified before return. No
        engine call. Read-only when the job's workspace is, or when `read_only` is asked for.
        """
        ...

    async def detach(self, sandbox_id: SandboxId, slot: str) -> None:
        """Unmount. Idempotent; also for slots of an earlier process."""
        ...

    async def close(self, job_id: JobId) -> None:
        """Let go of the job's workspace; an ephemeral one is gone after this. Clears setuid bits and devices in
        managed ones. Idempotent.
        """
        ...

    async def prove(self, slot: str, uid: int) -> str:
        """Attach a marker directory to `slot` and return its random content, for the sandbox to be asked about."""
        ...
