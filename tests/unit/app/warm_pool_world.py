"""A warm pool over fakes, with time in the test's hand."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from perstackd.app.warm_pool import ClaimRequest, PoolLimits, PoolPorts, WarmPool
from perstackd.domain.ids import DEFAULT_TENANT, JobId, RunId, SandboxId
from perstackd.domain.sandbox import SandboxRecord, Template
from perstackd.ports.room import Room
from perstackd.ports.traces import Traces
from tests.fakes.clock import FakeClock
from tests.fakes.counters import FakeCounters
from tests.fakes.egress import FakeEgress
from tests.fakes.runner_link import FakeRunnerLinks
from tests.fakes.sandboxes import FakeSandboxes
from tests.fakes.store import FakeStore
from tests.fakes.workspaces import FakeWorkspaces

BASE = Template("base", "perstack/base:latest", min_idle=2, max=4)
BOUND = 5.0


class Timers:
    """Sleeps that end when the test lets time pass, `early` seconds too soon, as a loop's coarse timers may."""

    def __init__(self, clock: FakeClock) -> None:
        self.early = 0.0
        self._clock = clock
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._clock.monotonic() + seconds, future))
        await future

    def waits_for(self, seconds: float) -> bool:
        """Whether somebody sleeps who is to be woken after so much more time."""
        due = self._clock.monotonic() + seconds
        return any(abs(each - due) < 1e-6 for each, _ in self._sleepers)

    def advance(self, seconds: float) -> None:
        """Let time pass and wake whose time has come."""
        self._clock.advance(seconds)
        now = self._clock.monotonic() + 1e-6 + self.early
        for due, future in self._sleepers:
            if due <= now and not future.done():
                future.set_result(None)
        self._sleepers = [(due, future) for due, future in self._sleepers if not future.done()]


class Rows:
    """The store's rows, with a gate: while `held`, a put waits, and its row is written once it may go on."""

    def __init__(self, store: FakeStore) -> None:
        self._rows = store.sandboxes
        self.reached = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()

    async def put(self, record: SandboxRecord) -> None:
        self.reached.set()
        await self._open.wait()
        await self._rows.put(record)

    async def delete(self, sandbox_id: SandboxId) -> None:
        await self._rows.delete(sandbox_id)

    async def all(self) -> tuple[SandboxRecord, ...]:
        return await self._rows.all()

    def hold(self) -> None:
        self.reached.clear()
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()


@dataclass
class World:
    """The fakes, one of each."""

    runtime: Path
    clock: FakeClock = field(default_factory=FakeClock)
    sandboxes: FakeSandboxes = field(default_factory=FakeSandboxes)
    workspaces: FakeWorkspaces = field(default_factory=FakeWorkspaces)
    egress: FakeEgress = field(default_factory=FakeEgress)
    store: FakeStore = field(default_factory=FakeStore)
    room: Room | None = None
    host: Traces | None = None
    counters: FakeCounters | None = None

    def __post_init__(self) -> None:
        self.links = FakeRunnerLinks(self.workspaces)
        self.timers = Timers(self.clock)
        self.rows = Rows(self.store)
        self._jobs = 0

    def pool(self, *templates: Template, **limits: float) -> WarmPool:
        ports = PoolPorts(
            self.sandboxes,
            self.links,
            self.workspaces,
            self.egress,
            self.rows,
            self.clock,
            self.timers.sleep,
            self.room,
            self.host,
            counters=self.counters,
        )
        bounds = replace(PoolLimits(boot_seconds=BOUND), **limits)  # type: ignore[arg-type]
        return WarmPool(ports, templates or (BASE,), str(self.runtime), bounds)

    @asynccontextmanager
    async def running(self, *templates: Template, **limits: float) -> AsyncIterator[WarmPool]:
        """A pool that is full."""
        async with self.pool(*templates, **limits) as pool:
            wanted = sum(max(1, template.min_idle) for template in templates or (BASE,))
            await eventually(lambda: sum(status.idle for status in pool.status()) == wanted)
            yield pool

    @asynccontextmanager
    async def killed(self, *templates: Template) -> AsyncIterator[WarmPool]:
        """A pool that is full. After the body its daemon is dead, and what it had is left as it was: containers and the
        runners in them, rows, directories, mounts. Links and listeners died with it.
        """
        left = self.runtime.with_suffix(".left")
        async with self.running(*templates) as pool:
            yield pool
            stores: tuple[dict[Any, Any], ...] = (self.sandboxes.containers, self.store.rows, self.workspaces.mounts)
            kept = [dict(store) for store in stores]
            shutil.copytree(self.runtime, left)
        for store, content in zip(stores, kept, strict=True):
            store.update(content)
        shutil.rmtree(self.runtime)
        left.rename(self.runtime)
        self.sandboxes.started.clear()
        self.sandboxes.removed.clear()

    def request(self, template: str = "base", depth: int = 0, job: str = "", fence: int = 1) -> ClaimRequest:
        self._jobs += 1
        job_id = JobId(job or f"job-{self._jobs}")
        run_id = RunId(f"run-{self._jobs}")
        return ClaimRequest(DEFAULT_TENANT, job_id, run_id, template, depth, fence, self._jobs)

    def group(self, *templates: str, depth: int = 0, job: str = "") -> tuple[ClaimRequest, ...]:
        """Of one run: its expert's, then one for each skill."""
        first = self.request(templates[0], depth, job)
        skills = (replace(first, template=name, role=f"skill-{at}") for at, name in enumerate(templates[1:], 1))
        return (first, *skills)

    def directories(self) -> set[str]:
        top = self.runtime / "s"
        return {entry.name for entry in top.iterdir()} if top.exists() else set()

    def traces(self) -> dict[str, object]:
        """Whatever is left of any sandbox, by kind; only what is not empty."""
        found: dict[str, object] = {
            "containers": set(self.sandboxes.containers),
            "rows": set(self.store.rows),
            "directories": self.directories(),
            "egress": set(self.egress.paths),
            "mounts": set(self.workspaces.mounts),
            "links": {name for name, link in self.links.made.items() if not link.closed},
        }
        return {kind: what for kind, what in found.items() if what}


@contextmanager
def world() -> Iterator[World]:
    directory = Path(tempfile.mkdtemp(prefix="pool-", dir="/tmp"))
    try:
        yield World(directory)
    finally:
        shutil.rmtree(directory)


async def eventually(true: Callable[[], object], seconds: float = BOUND) -> None:
    """Wait until something is so, at most `seconds`. File work is in threads, so yielding alone is not enough."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.001)
