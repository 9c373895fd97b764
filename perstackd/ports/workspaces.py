"""Workspaces on the host: found, made, attached to a running sandbox, detached; and those that have a name, for people
who list, fill and read them.
"""

from collections.abc import AsyncIterator, Collection
from typing import Protocol

from perstackd.domain.ids import JobId, SandboxId, TenantId
from perstackd.domain.workspace import NamedWorkspace, Unpacked, WorkspaceSpec


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

    async def take_over(
        self, job_id: JobId, sandbox_id: SandboxId, slot: str, uid: int, *, read_only: bool = False
    ) -> None:
        """Take over what an earlier process attached for the job, which is open: looked at, and left as it is.

        Raises:
            PerstackError: PRECONDITION `workspace_unsafe` when what is there is not the job's workspace as `attach`
            would mount it; `slot_missing`.
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


class ManagedWorkspaces(Protocol):
    """The named workspaces of each tenant. Every method but `all` raises PerstackError INVALID `workspace_invalid` for
    a name that cannot be one. Who may do what, and which job has a workspace, is not known here.
    """

    async def all(self, tenant: TenantId) -> tuple[NamedWorkspace, ...]:
        """Every one of the tenant's, by name, without holders."""
        ...

    async def create(self, tenant: TenantId, name: str, max_bytes: int) -> NamedWorkspace:
        """Make an empty one of at most `max_bytes`; 0 means as large as the operator says.

        Raises:
            PerstackError: ALREADY_EXISTS `workspace_exists`; INVALID `workspace_quota_invalid`; PRECONDITION
                `workspace_quota_unsupported`; EXHAUSTED `workspace_disk_full`.
        """
        ...

    async def remove(self, tenant: TenantId, name: str) -> None:
        """Remove it with all that is in it.

        Raises:
            PerstackError: NOT_FOUND `workspace_not_found`; CONFLICT `workspace_in_use` while anything has it open.
        """
        ...

    def pack(self, tenant: TenantId, name: str, path: str) -> AsyncIterator[bytes]:
        """A tar archive of the directory or file `path` of it, empty for all, in pieces of at most 256 KiB. Sockets,
        FIFOs and devices are left out. To be closed (`aclosing`) when left early.

        Raises:
            PerstackError: NOT_FOUND `workspace_not_found`, `workspace_file_not_found`; DENIED
                `workspace_file_refused`; EXHAUSTED `workspace_too_large`, `workspace_too_deep`, `too_many_transfers`.
        """
        ...

    async def unpack(self, tenant: TenantId, name: str, path: str, archive: AsyncIterator[bytes]) -> Unpacked:
        """Put what a tar archive holds into its directory `path`, made when it is not there: all or nothing. Files of
        the same name are replaced, directories merged, and no link is followed, in the archive or in the workspace.

        Raises:
            PerstackError: NOT_FOUND `workspace_not_found`; INVALID `archive_invalid`; DENIED `archive_refused`;
                EXHAUSTED `archive_too_large`, `workspace_full`, `too_many_transfers`; PRECONDITION `archive_conflict`;
                CONFLICT `workspace_changed` (part of it may be there).
        """
        ...
