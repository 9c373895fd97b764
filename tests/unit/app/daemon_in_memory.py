"""The use cases over fakes: pool, jobs and runs are the real ones."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from perstackd.adapters.answer_schemas import JsonAnswerSchemas
from perstackd.adapters.definition.parser import TomlDefinitions
from perstackd.app.feed import Feed
from perstackd.app.job_context import JobDefaults
from perstackd.app.job_request import JobRequest
from perstackd.app.jobs import Jobs
from perstackd.app.run_context import RunLimits, RunServices
from perstackd.app.warm_pool import PoolPorts, WarmPool
from perstackd.domain.events import Event
from perstackd.domain.expert import ModelChoice
from perstackd.domain.ids import DEFAULT_TENANT, JobId
from perstackd.domain.job import JobRecord
from perstackd.domain.messages import ToolSpec
from perstackd.domain.sandbox import Template
from perstackd.domain.workspace import WorkspaceSpec
from tests.fakes.acting_runner import ActingRunnerLinks
from tests.fakes.clock import FakeClock
from tests.fakes.egress import FakeEgress
from tests.fakes.models import Entry, ScriptedModels
from tests.fakes.sandboxes import FakeSandboxes
from tests.fakes.secrets import FakeSealer
from tests.fakes.store import FakeStore
from tests.fakes.workspaces import FakeWorkspaces

SKILLS = Template("skills", "perstack/base:latest")
TEAM = """
[experts.lead]
instruction = "Lead."
delegates = ["helper"]
[experts.helper]
instruction = "Help."
"""
TOOLS = tuple(
    ToolSpec(name, name, {"type": "object"}, read_only=name == "readTextFile")
    for name in ("attemptCompletion", "clearTodo", "exec", "readTextFile", "todo")
)


@dataclass(frozen=True, slots=True)
class World:
    """One daemon in memory."""

    jobs: Jobs
    pool: WarmPool
    store: FakeStore
    sandboxes: FakeSandboxes
    links: ActingRunnerLinks
    workspaces: FakeWorkspaces
    egress: FakeEgress
    models: ScriptedModels

    async def start(self, toml: str = TEAM, expert: str = "lead", **changes: object) -> JobRecord:
        """Create a job."""
        values: dict[str, object] = {"query": "do it", "workspace": WorkspaceSpec(), **changes}
        request = JobRequest(tenant=DEFAULT_TENANT, source="perstack.toml", toml=toml, expert_key=expert, **values)  # type: ignore[arg-type]
        record, _ = await self.jobs.create(request)
        return record

    async def events(self, job_id: JobId) -> list[Event]:
        """All events of a job, once it ended."""
        with anyio.fail_after(10):
            batches = [batch async for batch in self.jobs.watch(job_id, 0, streaming=False, follow=True)]
        return [stored.event for batch in batches for stored in batch.events]

    async def finished(
        self, toml: str = TEAM, expert: str = "lead", **changes: object
    ) -> tuple[JobRecord, list[Event]]:
        """Create a job and wait for its end."""
        record = await self.start(toml, expert, **changes)
        events = await self.events(record.id)
        return await self.jobs.get(record.id), events


@asynccontextmanager
async def world(
    runtime: Path,
    turns: Mapping[str, Sequence[Entry]],
    template: Template | None = None,
    *,
    limits: RunLimits | None = None,
    store: FakeStore | None = None,
    skills: Template | None = None,
    change: Callable[[RunServices], RunServices] = lambda services: services,
) -> AsyncIterator[World]:
    """A daemon whose models play `turns`, by a marker in the system prompt. With `skills`, a template for the sandboxes
    of skills. `change` gives it other services.
    """
    workspaces, sandboxes, egress, store = FakeWorkspaces(), FakeSandboxes(), FakeEgress(), store or FakeStore()
    links, clock, models = ActingRunnerLinks(workspaces), FakeClock(), ScriptedModels(turns)
    ports = PoolPorts(sandboxes, links, workspaces, egress, store.sandboxes, clock)
    templates = [template or Template("base", "perstack/base:latest"), *([skills] if skills else [])]
    pool = WarmPool(ports, templates, str(runtime))
    async with pool:
        services = change(RunServices(pool, workspaces, egress, models, store.blobs, clock, TOOLS))
        defaults = JobDefaults(
            model=ModelChoice("scripted", "m", "low"),
            limits=limits or RunLimits(),
            templates=frozenset(each.name for each in templates),
        )
        jobs = Jobs(
            store,
            Feed(store),
            services,
            definitions=TomlDefinitions(),
            sealer=FakeSealer(),
            defaults=defaults,
            check_provider=lambda _: None,
            schemas=JsonAnswerSchemas(),
        )
        async with jobs:
            yield World(jobs, pool, store, sandboxes, links, workspaces, egress, models)
