"""The sandboxes port on Docker: starts, judges and removes containers. No other code of the product calls the engine.

Above it are the pool and recovery, below it `starts` (how many at once, what a
failed one leaves) and `calls` (threads, deadlines, breaker). `hardening` says what is asked for,
`posture` what must have come of it.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import docker.errors

from perstackd.adapters.docker import failures
from perstackd.adapters.docker.calls import CallLimits, Client, EngineCalls, T
from perstackd.adapters.docker.hardening import (
    LABEL_DAEMON,
    MASKED,
    READ_ONLY,
    container_name,
    container_options,
    profile_for,
)
from perstackd.adapters.docker.kernel import observe
from perstackd.adapters.docker.ledger import Ledger
from perstackd.adapters.docker.posture import Expected, compare, not_running
from perstackd.adapters.docker.runtimes import check_runtime
from perstackd.adapters.docker.sentry import observe_sentry
from perstackd.adapters.docker.starts import Starts, remove_container
from perstackd.domain.ids import SandboxId, is_id
from perstackd.domain.sandbox import Posture, SandboxRecord, Template
from perstackd.ports.sandboxes import ContainerEnd, EndCause, EngineInfo, SandboxDirectories


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Where the engine is, whose containers are ours, and the bounds. `url` is a Unix socket's, `ca_bundle` a file that
    `ca_bundle.installed` made, or empty. Without a `ledger` no container is noted.
    """

    daemon_id: str
    seccomp_path: str
    url: str = "unix:///var/run/docker.sock"
    ca_bundle: str = ""
    starts_at_once: int = 3
    limits: CallLimits = field(default_factory=CallLimits)
    ledger: Ledger | None = None


class DockerSandboxes(AbstractAsyncContextManager["DockerSandboxes"]):
    """Implements `ports.sandboxes.Sandboxes`. To be closed, or used as an async context manager.

    Closing waits for running calls, at most one call's time; containers are left as they are.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._calls = EngineCalls(settings.url, settings.limits)
        self._starts = Starts(self._calls, settings.limits, settings.starts_at_once)
        self._label = f"{LABEL_DAEMON}={settings.daemon_id}"
        self._seccomp = ""
        self._started: dict[SandboxId, Expected] = {}
        self._runtimes = {"runc"}

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Idempotent."""
        await self._calls.close()

    async def info(self) -> EngineInfo:
        found = await self._asked("tell about itself", lambda client: client.info())
        return EngineInfo(
            version=str(found.get("ServerVersion", "")),
            runtimes=tuple(sorted(found.get("Runtimes") or {})),
            cgroup_version=int(found.get("CgroupVersion") or 1),
            security=tuple(found.get("SecurityOptions") or ()),
        )

    async def image_id(self, image: str) -> str:
        try:
            found = await self._calls.run(lambda client: client.inspect_image(image), self._limits.call_seconds)
        except docker.errors.NotFound as error:
            raise failures.image_missing(image) from error
        except docker.errors.APIError as error:
            raise failures.refused(f"look at the image {image}", error) from error
        if not (found.get("Config") or {}).get("Entrypoint"):
            raise failures.image_unfit(image)
        return str(found["Id"])

    async def start(self, record: SandboxRecord, template: Template, directories: SandboxDirectories) -> str:
        """See the port. Starts beyond the gate wait in order. A caller that is cancelled leaves no container behind."""
        await self._known(template.runtime)
        image, seccomp = record.image_id or await self.image_id(template.image), await self._profile(template)
        options = container_options(
            record,
            template,
            directories,
            image_id=image,
            seccomp=seccomp,
            daemon_id=self._settings.daemon_id,
            ca_bundle=self._settings.ca_bundle,
        )
        try:
            note = partial(_note, self._settings.ledger, record.id)
            container_id = await self._starts.run(container_name(record.id), options, note)
        except docker.errors.ImageNotFound as error:
            raise failures.image_missing(image) from error
        except docker.errors.APIError as error:
            raise failures.start_failed(record.id, failures.detail(error)) from error
        self._started[record.id] = Expected(image, seccomp, directories, self._settings.ca_bundle)
        return container_id

    async def posture(self, record: SandboxRecord, template: Template) -> Posture:
        """See the port. One engine call; the rest is read from /proc and takes a millisecond or two."""
        expected = self._started.get(record.id)
        if expected is None:  # of an earlier process
            image = record.image_id or await self.image_id(template.image)
            expected = Expected(image, await self._profile(template), ca_bundle=self._settings.ca_bundle)
        return await self._asked(f"look at sandbox {record.id}", partial(_posture, record, template, expected))

    async def end(self, sandbox_id: SandboxId) -> ContainerEnd:
        name = container_name(sandbox_id)
        try:
            found = await self._calls.run(lambda client: client.inspect_container(name), self._limits.call_seconds)
        except docker.errors.NotFound:
            return ContainerEnd(EndCause.GONE, detail="the engine has no such container")
        except docker.errors.APIError as error:
            raise failures.refused(f"look at container {name}", error) from error
        return end_of(found["State"])

    async def remove(self, sandbox_id: SandboxId) -> None:
        """See the port.

        Raises:
            PerstackError: UNAVAILABLE `remove_failed` when the engine could not, `engine_unavailable`.
        """
        name = container_name(sandbox_id)
        seconds = self._limits.remove_seconds
        try:
            await self._calls.run(partial(remove_container, name, self._label, seconds), seconds)
        except docker.errors.APIError as error:
            raise failures.remove_failed(name, failures.detail(error)) from error
        self._started.pop(sandbox_id, None)

    async def ours(self) -> tuple[SandboxId, ...]:
        """See the port. By label and name together, as either may be anybody's."""
        mine = {"label": self._label}
        found = await self._asked("list containers", lambda client: client.containers(all=True, filters=mine))
        names = [str(name).removeprefix("/perstack-") for container in found for name in container["Names"]]
        return tuple(sorted(SandboxId(name) for name in names if is_id(name)))

    async def knows(self, container_id: str) -> bool:
        """Whether the engine has a container of that id, whosever it is. Raises `engine_unavailable`."""
        try:
            await self._calls.run(lambda client: client.inspect_container(container_id), self._limits.call_seconds)
        except docker.errors.NotFound:
            return False
        except docker.errors.APIError as error:
            raise failures.refused(f"look at container {container_id}", error) from error
        return True

    async def _known(self, runtime: str) -> None:
        """Raises as `check_runtime` does. What was found good is not asked again."""
        if runtime not in self._runtimes:
            await self._asked(f"tell of the runtime {runtime}", lambda client: check_runtime(runtime, client.info()))
            self._runtimes.add(runtime)

    async def _asked(self, what: str, work: Callable[[Client], T]) -> T:
        try:
            return await self._calls.run(work, self._limits.call_seconds)
        except docker.errors.APIError as error:
            raise failures.refused(what, error) from error

    async def _profile(self, template: Template) -> str:
        if not self._seccomp:
            self._seccomp = await asyncio.to_thread(read_profile, self._settings.seccomp_path)
        return profile_for(template, self._seccomp)


# --- on a thread ----------------------------------------------------------------------------------------------------
def read_profile(path: str) -> str:
    """The seccomp profile as one line. Raises PRECONDITION `seccomp_profile_unreadable`."""
    try:
        return json.dumps(json.loads(Path(path).read_text()), separators=(",", ":"))
    except (OSError, ValueError) as error:
        raise failures.profile_unreadable(path, str(error)) from error


def _note(ledger: Ledger | None, sandbox_id: SandboxId, container_id: str) -> None:
    if ledger is None:
        return
    try:
        ledger.note(container_id, sandbox_id)
    except (OSError, ValueError) as error:
        raise failures.start_failed(sandbox_id, f"its container cannot be noted before it runs: {error}") from error


def _posture(record: SandboxRecord, template: Template, expected: Expected, client: Client) -> Posture:
    try:
        inspected = client.inspect_container(container_name(record.id))
    except docker.errors.NotFound:
        return not_running(record.id, "no such container")
    state = inspected["State"]
    if not state["Running"]:
        return not_running(record.id, str(state["Status"]))
    pid = int(state["Pid"])
    try:
        seen = observe_sentry(pid) if template.runtime == "runsc" else observe(pid, (*MASKED, *READ_ONLY))
    except OSError as error:
        return not_running(record.id, f"its first process cannot be looked at: {error.strerror}")
    return compare(record, template, expected, inspected, seen)


def end_of(state: Mapping[str, Any]) -> ContainerEnd:
    """The engine's State as the port tells it."""
    status, code = str(state.get("Status", "")), int(state.get("ExitCode") or 0)
    error = str(state.get("Error") or "")
    if state.get("Running"):
        return ContainerEnd(EndCause.RUNNING)
    if state.get("OOMKilled"):
        return ContainerEnd(EndCause.OOM_KILLED, code, error or "the memory limit was reached")
    if status == "created":
        return ContainerEnd(EndCause.EXITED, code, error or "it was created and never ran")
    return ContainerEnd(EndCause.EXITED, code, error or f"its first process ended with {code}")
