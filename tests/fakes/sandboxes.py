"""A sandbox engine in memory, with switches for everything that a real one does wrong."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import Posture, PostureCheck, SandboxRecord, Template
from perstackd.ports.sandboxes import ContainerEnd, EndCause, EngineInfo, SandboxDirectories


@dataclass(frozen=True, slots=True)
class FakeContainer:
    """One container of the fake: what it was started with, and how it is."""

    id: str
    record: SandboxRecord
    template: Template
    directories: SandboxDirectories
    end: ContainerEnd


class FakeSandboxes:
    """Passes tests/contracts/test_sandboxes.py. Switches are plain attributes and may be turned at any time.

    `available=False` makes every call raise `engine_unavailable`. `failing_starts=N` makes the next N starts raise
    `start_failed` and leave nothing. `hold_starts()` makes starts wait until `release_starts()`. Names in `weak` fail
    that posture check of every sandbox; `weak_sandboxes` fails all of one. `kill` ends one as a crash or OOM would.
    `stuck_removals` holds ids whose removal raises `remove_failed`. `on_start` is called with the record and
    directories once a container runs, so that a test can dial its socket.
    """

    def __init__(self, images: tuple[str, ...] = ("perstack/base:latest",)) -> None:
        self.images = {image: f"sha256:{hashlib.sha256(image.encode()).hexdigest()}" for image in images}
        self.containers: dict[SandboxId, FakeContainer] = {}
        self.available = True
        self.failing_starts = 0
        self.weak: set[str] = set()
        self.weak_sandboxes: set[SandboxId] = set()
        self.stuck_removals: set[SandboxId] = set()
        self.on_start: Callable[[SandboxRecord, SandboxDirectories], None] | None = None
        self.started: list[SandboxId] = []
        self.removed: list[SandboxId] = []
        self.starting = 0
        self.peak_starting = 0
        self._open_gate = asyncio.Event()
        self._open_gate.set()

    # --- switches ---------------------------------------------------------------------------------------------------
    def hold_starts(self) -> None:
        """Starts that begin from now on wait."""
        self._open_gate.clear()

    def release_starts(self) -> None:
        """Waiting starts go on."""
        self._open_gate.set()

    def kill(self, sandbox_id: SandboxId, cause: EndCause = EndCause.EXITED, exit_code: int = 137) -> None:
        """End a running container; it stays until it is removed, unless `cause` is GONE."""
        if cause is EndCause.GONE:
            del self.containers[sandbox_id]
            return
        container = self.containers[sandbox_id]
        end = ContainerEnd(cause, exit_code, f"ended with exit code {exit_code}")
        self.containers[sandbox_id] = replace(container, end=end)

    # --- the port ---------------------------------------------------------------------------------------------------
    async def info(self) -> EngineInfo:
        await self._engine()
        return EngineInfo(version="fake", runtimes=("runc",), cgroup_version=1, security=("seccomp",))

    async def image_id(self, image: str) -> str:
        await self._engine()
        found = self.images.get(image) or next((known for known in self.images.values() if known == image), None)
        if found is None:
            raise PerstackError(
                Kind.NOT_FOUND,
                "image_missing",
                f"the sandbox image {image} is not on this engine; build it with `make images`",
                fields={"image": image},
            )
        return found

    async def start(self, record: SandboxRecord, template: Template, directories: SandboxDirectories) -> str:
        await self._engine()
        self.starting += 1
        self.peak_starting = max(self.peak_starting, self.starting)
        try:
            await self._open_gate.wait()
            return await self._start(record, template, directories)
        finally:
            self.starting -= 1

    async def _start(self, record: SandboxRecord, template: Template, directories: SandboxDirectories) -> str:
        await self._engine()
        await self.image_id(record.image_id or template.image)
        if self.failing_starts > 0:
            self.failing_starts -= 1
            raise _start_failed(record.id, "told to fail by the test")
        if record.id in self.containers:
            raise _start_failed(record.id, "the name is in use by another container")
        container_id = hashlib.sha256(record.id.encode()).hexdigest()
        self.containers[record.id] = FakeContainer(
            container_id, record, template, directories, ContainerEnd(EndCause.RUNNING)
        )
        self.started.append(record.id)
        if self.on_start is not None:
            self.on_start(record, directories)
        return container_id

    async def posture(self, record: SandboxRecord, template: Template) -> Posture:
        await self._engine()
        container = self.containers.get(record.id)
        if container is None or container.end.cause is not EndCause.RUNNING:
            actual = "no such container" if container is None else container.end.cause.value
            return Posture(record.id, (PostureCheck("running", "running", actual, ok=False, source="engine"),))
        names = ("running", "capabilities", "no_new_privileges", "seccomp", "root_read_only", "network")
        weak = {*self.weak, *names} if record.id in self.weak_sandboxes else self.weak
        checks = tuple(
            PostureCheck(name, "as asked", "weakened" if name in weak else "as asked", ok=name not in weak)
            for name in (*names, *sorted(weak.difference(names)))
        )
        return Posture(record.id, checks, template.exceptions)

    async def end(self, sandbox_id: SandboxId) -> ContainerEnd:
        await self._engine()
        container = self.containers.get(sandbox_id)
        return container.end if container else ContainerEnd(EndCause.GONE, detail="the engine has no such container")

    async def remove(self, sandbox_id: SandboxId) -> None:
        await self._engine()
        if sandbox_id in self.stuck_removals:
            raise PerstackError(
                Kind.UNAVAILABLE,
                "remove_failed",
                f"container perstack-{sandbox_id} could not be removed: told to stick by the test",
                retryable=True,
            )
        if self.containers.pop(sandbox_id, None) is not None:
            self.removed.append(sandbox_id)

    async def ours(self) -> tuple[SandboxId, ...]:
        await self._engine()
        return tuple(self.containers)

    async def _engine(self) -> None:
        await asyncio.sleep(0)
        if not self.available:
            raise PerstackError(
                Kind.UNAVAILABLE,
                "engine_unavailable",
                "the Docker engine did not answer; start it with `systemctl start docker`, then see `docker info`",
                retryable=True,
            )


def _start_failed(sandbox_id: SandboxId, cause: str) -> PerstackError:
    return PerstackError(
        Kind.PRECONDITION,
        "start_failed",
        f"sandbox {sandbox_id} could not be started: {cause}",
        fields={"sandbox_id": sandbox_id},
    )
