"""What the daemon keeps of a tenant, deleted: jobs that have ended, stored secrets, named workspaces. What something
still needs is left, and said. Not the tenant's: keys of providers, values of routes, directories of the host.

Above is the servicer; below are the use cases that own each kind.
"""

from dataclasses import dataclass

import structlog

from perstackd.app.retention import Retention
from perstackd.app.secrets import Secrets
from perstackd.app.workspaces import Workspaces
from perstackd.domain.errors import PerstackError
from perstackd.domain.ids import TenantId
from perstackd.domain.secret import tenant_owner

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Erased:
    """How many were deleted; `unfinished` jobs go on. `left` says what was left and why, a sentence each."""

    jobs: int
    unfinished: int
    secrets: int = 0
    workspaces: int = 0
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Erasure:
    """To be repeated until nothing is left; each part may be interrupted, and is gone on with then."""

    retention: Retention
    secrets: Secrets | None = None
    workspaces: Workspaces | None = None

    async def erase(self, tenant: TenantId, *, jobs_only: bool) -> Erased:
        """Raises PerstackError as `Retention.erase`; UNAVAILABLE `store_unavailable`: what was deleted stays so."""
        jobs, unfinished = await self.retention.erase(tenant)
        if jobs_only:
            return Erased(jobs, unfinished)
        secrets, kept = await self._erase_secrets(tenant, unfinished)
        workspaces, in_use = await self._erase_workspaces(tenant)
        _log.info("tenant erased", tenant=tenant, jobs=jobs, secrets=secrets, workspaces=workspaces)
        return Erased(jobs, unfinished, secrets, workspaces, (*kept, *in_use))

    async def _erase_secrets(self, tenant: TenantId, unfinished: int) -> tuple[int, tuple[str, ...]]:
        if self.secrets is None:
            return 0, ()
        count = len(self.secrets.listed(tenant_owner(tenant)))
        if count and unfinished:
            left = f"{count} stored secrets: {unfinished} jobs go on and may need them; erase again after their end"
            return 0, (left,)
        return await self.secrets.remove_all(tenant_owner(tenant)), ()

    async def _erase_workspaces(self, tenant: TenantId) -> tuple[int, tuple[str, ...]]:
        """One that cannot be removed keeps no other."""
        if self.workspaces is None:
            return 0, ()
        count, left = 0, []
        for found in await self.workspaces.all(tenant):
            try:
                await self.workspaces.remove(tenant, found.name)
                count += 1
            except PerstackError as error:
                left.append(f"the workspace {found.name!r}: {error.message}")
        return count, tuple(left)
