"""The workspaces of this host: what `ports.workspaces.Workspaces` promises, done with mounts.

Owns which job has which directory open and what hangs on which slot. Above: the pool and the run worker. Below: `Places`
finds, `Binder` attaches, `RuntimeRoot` takes away, each in a thread of its own so that a hanging file system or a large
sweep delays no claim.
"""

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from perstackd.adapters.workspaces.bind import Binder
from perstackd.adapters.workspaces.lane import Lane
from perstackd.adapters.workspaces.mountinfo import MountPoint
from perstackd.adapters.workspaces.places import Places, Source
from perstackd.adapters.workspaces.root import RuntimeRoot
from perstackd.adapters.workspaces.sweep import MAX_SECONDS, sweep
from perstackd.adapters.workspaces.userns import MIN_OWNER, UserNamespaces
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import JobId, SandboxId, TenantId
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """Where and as whom. `state` keeps named workspaces, `runtime` is the shared mount; paths are absolute and real.

    `managed_uid` owns named and ephemeral workspaces on the host; the helper's spare uid must be another one.
    """

    state: str
    runtime: str
    roots: tuple[str, ...] = ()
    managed_uid: int = 199_998
    ephemeral_bytes: int = 256 << 20
    ephemeral_inodes: int = 65_536

    def __post_init__(self) -> None:
        if self.managed_uid < MIN_OWNER:
            message = f"managed_uid is {self.managed_uid}; it must be {MIN_OWNER} or more, an account that nobody uses"
            raise PerstackError(Kind.INVALID, "config_invalid", message)
        for path in (self.state, self.runtime, *self.roots):
            if not path.startswith("/") or {".", ".."} & set(path.split("/")):
                message = f"{path!r} is not an absolute path without . and .. parts"
                raise PerstackError(Kind.INVALID, "config_invalid", message)

    @property
    def tmpfs_options(self) -> str:
        """Of an ephemeral workspace, see tmpfs(5)."""
        owner = f"uid={self.managed_uid},gid={self.managed_uid}"
        return f"size={self.ephemeral_bytes},nr_inodes={self.ephemeral_inodes},mode=0700,{owner}"


@dataclass(slots=True)
class _Opened:
    tenant: TenantId
    spec: WorkspaceSpec
    source: Source
    slots: set[str] = field(default_factory=set)


class HostWorkspaces:
    """Implements `Workspaces`. Order: `namespaces.start`, `prepare_root`, the loop, `shutdown`, `namespaces.close`.

    All other methods belong to the event loop's thread. Mounts outlive `shutdown`, as the sandboxes do; a new process
    takes them over. `cleanup_root` takes them all away.
    """

    def __init__(self, settings: HostSettings, namespaces: UserNamespaces) -> None:
        self._root = RuntimeRoot(settings.runtime)
        self._places = Places(
            settings.state, self._root, settings.roots, settings.managed_uid, settings.tmpfs_options
        )
        self._binder = Binder(self._root, namespaces)
        self._jobs: dict[JobId, _Opened] = {}
        self._markers: dict[str, Path] = {}
        self._finding = Lane("workspace-find", 10.0)
        self._mounting = Lane("workspace-mount", 10.0)
        self._sweeping = Lane("workspace-sweep", MAX_SECONDS + 10.0)

    def prepare_root(self) -> None:
        """Make the runtime directory a shared mount and the state directories. Blocking, before the loop. Idempotent."""
        self._root.prepare()
        self._places.prepare()

    def cleanup_root(self) -> None:
        """Unmount everything below the runtime directory and itself; ephemeral workspaces are lost. Blocking."""
        self._root.cleanup()

    def shutdown(self) -> None:
        """Stop the threads and let go of every directory; mounts stay. Blocking, after the loop. Idempotent."""
        for lane in (self._finding, self._mounting, self._sweeping):
            lane.shutdown()
        while self._jobs:
            os.close(self._jobs.popitem()[1].source.descriptor)

    async def leftovers(self) -> tuple[MountPoint, ...]:
        """Every mount below the runtime directory, also of an earlier process, for reconcile."""
        return await self._mounting.run(self._root.leftovers)

    async def prepare(self, slot: str) -> None:
        await self._mounting.run(functools.partial(self._root.prepare_slot, slot))

    async def open(self, job_id: JobId, tenant: TenantId, spec: WorkspaceSpec) -> None:
        spec.validate()
        if job_id in self._jobs:
            return self._same(job_id, tenant, spec)
        source = await self._finding.run(functools.partial(self._places.find, job_id, tenant, spec), _let_go)
        try:
            await self._mounting.run(functools.partial(self._binder.check, source))
        except BaseException:
            _let_go(source)
            raise
        if job_id in self._jobs:
            _let_go(source)
            return self._same(job_id, tenant, spec)
        self._jobs[job_id] = _Opened(tenant, spec, source)
        return None

    async def attach(self, job_id: JobId, sandbox_id: SandboxId, slot: str, uid: int) -> None:
        opened = self._jobs.get(job_id)
        if opened is None:
            message = f"sandbox {sandbox_id} asks for the workspace of job {job_id}, which is not open"
            raise PerstackError(Kind.PRECONDITION, "workspace_not_open", message)
        bind = functools.partial(self._binder.bind, opened.source, slot, uid, read_only=opened.spec.read_only)
        await self._mounting.run(bind, lambda _: self._root.clear_slot(slot))
        opened.slots.add(slot)

    async def detach(self, sandbox_id: SandboxId, slot: str) -> None:
        marker = self._markers.pop(slot, None)
        for opened in self._jobs.values():
            opened.slots.discard(slot)
        await self._mounting.run(functools.partial(self._take_away, slot, marker))

    async def close(self, job_id: JobId) -> None:
        opened = self._jobs.pop(job_id, None)
        if opened is not None:
            await self._mounting.run(functools.partial(self._release, job_id, opened))

    async def prove(self, slot: str, uid: int) -> str:
        raise NotImplementedError
