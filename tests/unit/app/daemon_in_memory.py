"""The use cases over fakes: pool, jobs and runs are the real ones."""

import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from perstackd.adapters.answer_schemas import JsonAnswerSchemas
from perstackd.adapters.definition.parser import TomlDefinitions
from perstackd.app.feed import Feed
from perstackd.app.job_context import JobDefaults
from perstackd.app.job_request import JobRequest
from perstackd.app.jobs import Jobs
from perstackd.app.run_context import RunLimits, RunServices
from perstackd.app.warm_pool import PoolLimits, PoolPorts, WarmPool
from perstackd.domain.events import Event
from perstackd.domain.expert import ModelChoice
from perstackd.domain.ids import DEFAULT_TENANT, JobId
from perstackd.domain.job import JobRecord
from perstackd.domain.messages import ToolSpec
from perstackd.domain.sandbox import Template
from perstackd.domain.workspace import WorkspaceSpec
from perstackd.ports.counters import CounterReader
from tests.fakes.acting_runner import ActingRunnerLinks
from tests.fakes.clock import FakeClock
from tests.fakes.egress import FakeEgress
from tests.fakes.halts import FakeHalts
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


class Machine:
    """What outlives a daemon: the host's directories and mounts, the engine, the sandboxes and the runners in them, the
    store. `stops`: a daemon that is interrupted is stopped with its jobs under way; else it is killed.
    """

    stops = False

    def __init__(
        self, runtime: Path, images: Sequence[str] = ("perstack/base:latest",), store: FakeStore | None = None
    ) -> None:
        self.runtime = runtime
        self.workspaces, self.sandboxes, self.store = (
            FakeWorkspaces(),
            FakeSandboxes(tuple(images)),
            store or FakeStore(),
        )
        self.links, self.clock = ActingRunnerLinks(self.workspaces), FakeClock()
        self.halts = FakeHalts()

    @classmethod
    def rebooted(cls, runtime: Path, store: FakeStore) -> "Machine":
        """After its power was cut: only the store is left, and the clock has gone on."""
        shutil.rmtree(runtime)
        runtime.mkdir()
        machine = cls(runtime, store=store)
        machine.clock.advance(60)
        return machine

    def interrupted(self, turns: Mapping[str, Sequence[Entry]], **options: Any) -> AbstractAsyncContextManager[World]:
        """A daemon that ends after the body, in the way of this machine."""
        return (self._stopped if self.stops else self._killed)(turns, **options)

    @asynccontextmanager
    async def _stopped(self, turns: Mapping[str, Sequence[Entry]], **options: Any) -> AsyncIterator[World]:
        async with world(self.runtime, turns, machine=self, **options) as daemon:
            yield daemon
        self.workspaces.jobs.clear()
        self.sandboxes.started.clear()
        self.sandboxes.removed.clear()

    @asynccontextmanager
    async def _killed(self, turns: Mapping[str, Sequence[Entry]], **options: Any) -> AsyncIterator[World]:
        """Whatever its stop takes away is put back."""
        left = self.runtime.with_name(f"{self.runtime.name}.left")
        async with world(self.runtime, turns, machine=self, **options) as daemon:
            yield daemon
            kept = [(whole, dict(whole)) for whole in self._whole()]
            log = {job_id: list(events) for job_id, events in self.store.log.items()}
            shutil.copytree(self.runtime, left)
        for whole, content in kept:
            whole.clear()
            whole.update(content)
        self.store.log.clear()
        self.store.log.update(log)
        self.workspaces.jobs.clear()
        shutil.rmtree(self.runtime)
        left.rename(self.runtime)
        self.sandboxes.started.clear()
        self.sandboxes.removed.clear()

    def _whole(self) -> tuple[dict[Any, Any], ...]:
        store, workspaces = self.store, self.workspaces
        return (
            *(store.records, store.envs, store.rows, store.contents, store.put_at),
            *(workspaces.mounts, workspaces.ephemeral, workspaces.named, self.sandboxes.containers),
        )


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
    machine: Machine | None = None,
    bounds: PoolLimits | None = None,
    store_patience_s: float = 3600,
    counters: CounterReader | None = None,
) -> AsyncIterator[World]:
    """A daemon whose models play `turns`, by a marker in the system prompt. With `skills`, a template for the sandboxes
    of skills. `change` gives it other services. On a `machine` it is the next daemon there.
    """
    place = machine or Machine(runtime)
    workspaces, sandboxes, links, clock = place.workspaces, place.sandboxes, place.links, place.clock
    egress, store, models = FakeEgress(), store or place.store, ScriptedModels(turns)
    ports = PoolPorts(
        sandboxes, links, workspaces, egress, store.sandboxes, clock, halts=place.halts, counters=counters
    )
    templates = [template or Template("base", "perstack/base:latest"), *([skills] if skills else [])]
    pool = WarmPool(ports, templates, str(runtime), bounds or PoolLimits(return_seconds=0.2))
    async with pool:
        services = change(RunServices(pool, workspaces, egress, models, store.blobs, clock, TOOLS))
        defaults = JobDefaults(
            model=ModelChoice("scripted", "m", "low"),
            limits=limits or RunLimits(),
            store_patience_s=store_patience_s,
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
