"""All that is kept of a tenant, deleted: and what is left says why."""

from dataclasses import dataclass, field

import pytest

from perstackd.app.erasure import Erased, Erasure
from perstackd.app.secrets import SecretOrder, Secrets
from perstackd.app.workspace_holds import WorkspaceHolds
from perstackd.app.workspaces import Workspaces
from perstackd.domain.ids import DEFAULT_TENANT, JobId, TenantId
from perstackd.domain.job import JobState
from perstackd.domain.secret import PROVIDERS, ROUTES, tenant_owner
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.clock import FakeClock
from tests.fakes.managed_workspaces import FakeManagedWorkspaces
from tests.fakes.secrets import FakeMasterKeys
from tests.unit.app import test_retention

pytestmark = pytest.mark.anyio
OTHER = TenantId("other")


@dataclass
class Tenancy:
    """Two tenants, each with an ended job, a secret and two workspaces; and what is the operator's."""

    jobs: test_retention.World = field(default_factory=test_retention.World)
    managed: FakeManagedWorkspaces = field(default_factory=FakeManagedWorkspaces)
    holds: WorkspaceHolds = field(default_factory=WorkspaceHolds)

    async def made(self) -> Erasure:
        self.secrets = await Secrets.opened(self.jobs.store.secrets, FakeMasterKeys(), FakeClock())
        for tenant in (DEFAULT_TENANT, OTHER):
            await self.jobs.job(tenant=tenant)
            await self.secrets.put(SecretOrder(tenant_owner(tenant), "TOKEN", b"value-12345"))
            for name in ("one", "two"):
                await self.managed.create(tenant, name, 0)
        await self.secrets.put(SecretOrder(PROVIDERS, "anthropic", b"sk-12345"))
        await self.secrets.put(SecretOrder(ROUTES, "TOKEN", b"value-67890"))
        return Erasure(self.jobs.retention, self.secrets, Workspaces(self.managed, self.holds))

    async def stored(self) -> set[tuple[str, str]]:
        """What is durable, beside what is known."""
        kept = {(each.owner, each.name) for each in (await self.jobs.store.secrets.kept()).secrets}
        owners = (tenant_owner(DEFAULT_TENANT), tenant_owner(OTHER), PROVIDERS, ROUTES)
        assert kept == {(each.owner, each.name) for owner in owners for each in self.secrets.listed(owner)}
        return kept


async def test_jobs_secrets_and_workspaces_go_and_nothing_of_others() -> None:
    tenancy = Tenancy()
    erasure = await tenancy.made()
    assert await erasure.erase(DEFAULT_TENANT, jobs_only=False) == Erased(1, 0, 1, 2)
    assert {record.tenant for record in tenancy.jobs.store.records.values()} == {OTHER}
    assert await tenancy.stored() == {("tenant:other", "TOKEN"), (PROVIDERS, "anthropic"), (ROUTES, "TOKEN")}
    assert set(tenancy.managed.found) == {(OTHER, "one"), (OTHER, "two")}
    assert await erasure.erase(DEFAULT_TENANT, jobs_only=False) == Erased(0, 0)


async def test_with_jobs_only_the_rest_stays() -> None:
    tenancy = Tenancy()
    erasure = await tenancy.made()
    assert await erasure.erase(DEFAULT_TENANT, jobs_only=True) == Erased(1, 0)
    assert ("tenant:default", "TOKEN") in await tenancy.stored()
    assert len(tenancy.managed.found) == 4


async def test_what_jobs_that_go_on_need_is_left_and_said_and_goes_after_their_end() -> None:
    tenancy = Tenancy()
    erasure = await tenancy.made()
    running = await tenancy.jobs.job(state=JobState.RUNNING)
    tenancy.holds.take(running, DEFAULT_TENANT, WorkspaceSpec(WorkspaceKind.NAMED, "one"))
    tenancy.managed.busy.add("two")
    done = await erasure.erase(DEFAULT_TENANT, jobs_only=False)
    assert (done.jobs, done.unfinished, done.secrets, done.workspaces) == (1, 1, 0, 0)
    secrets, one, two = done.left
    assert secrets.startswith("1 stored secrets: 1 jobs go on and may need them")
    assert one.startswith("the workspace 'one'")
    assert running in one
    assert two == "the workspace 'two': the workspace 'two' is in use"
    tenancy.holds.give_back(JobId(running))
    tenancy.managed.busy.clear()
    del tenancy.jobs.store.records[running]
    assert await erasure.erase(DEFAULT_TENANT, jobs_only=False) == Erased(0, 0, 1, 2)
