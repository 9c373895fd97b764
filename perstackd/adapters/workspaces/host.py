"""The workspaces of this host: what `ports.workspaces.Workspaces` promises, done with mounts.

Owns which job has which directory open and what hangs on which slot. Above: the pool and the run worker. Below:
`Places` finds, `Binder` attaches, `RuntimeRoot` takes away. Finding, mounting and sweeping have a thread each, so that
a hanging file system or a large sweep delays no claim.
"""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial

import structlog

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.bind import Binder
from perstackd.adapters.workspaces.lane import Lane
from perstackd.adapters.workspaces.managed import HostManagedWorkspaces
from perstackd.adapters.workspaces.markers import Markers
from perstackd.adapters.workspaces.mountinfo import MountPoint
from perstackd.adapters.workspaces.named import NamedStore
from perstackd.adapters.workspaces.places import Places, Source
from perstackd.adapters.workspaces.root import WORKSPACE, RuntimeRoot
from perstackd.adapters.workspaces.settings import HostSettings
from perstackd.adapters.workspaces.sweep import MAX_SECONDS, sweep
from perstackd.adapters.workspaces.userns import Owner, UserNamespaces
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import JobId, SandboxId, TenantId
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Opened:
    tenant: TenantId
    spec: WorkspaceSpec
    source: Source
    slots: set[str] = field(default_factory=set)


class HostWorkspaces:
    """Implements `Workspaces`. Order: `namespaces.start`, `prepare_root`, the loop, `shutdown`, `namespaces.close`.

    All other methods belong to the event loop's thread. Mounts outlive `shutdown`, as the sandboxes do; the next
    process takes them over by `open`, `detach` and `leftovers`. `cleanup_root` takes them all away. `set_attributes` is
    the kernel's answer to mount_setattr, another one in tests of older kernels. `managed` is the side for people.
    """

    def __init__(
        self,
        settings: HostSettings,
        namespaces: UserNamespaces,
        set_attributes: Callable[[int, int, int], None] = syscalls.set_mount_attributes,
    ) -> None:
        self._namespaces = namespaces
        self._managed = Owner.of(settings.managed_uid, settings.managed_uid)
        self._root = RuntimeRoot(settings.runtime)
        self.store = NamedStore(settings, self._root)
        self.managed = HostManagedWorkspaces(settings, self.store)
        self._places = Places(settings, self._root, self.store)
        self._binder = Binder(self._root, namespaces, set_attributes)
        self._markers = Markers(settings.state, settings.managed_uid, self._root, self._binder)
        self._jobs: dict[JobId, _Opened] = {}
        self._left: set[str] = set()
        self._awaited: set[JobId] = set()
        self._finding = Lane("workspace-find", 10.0)
        self._mounting = Lane("workspace-mount", 10.0)
        self._sweeping = Lane("workspace-sweep", MAX_SECONDS + 10.0)

    def prepare_root(self) -> None:
        """Make the runtime directory a shared mount, and the state directories. Blocking. Idempotent."""
        self._root.prepare()
        self.store.prepare()
        self._markers.prepare()

    def cleanup_root(self) -> None:
        """Unmount the runtime directory and all below, but for the workspaces of jobs that were open at `shutdown`, or
        that `settle` found and nobody had opened by then, and what their sandboxes see of them: the next process takes
        these jobs up. Blocking. Idempotent.
        """
        self._root.cleanup(self._left)

    def shutdown(self) -> None:
        """End the threads and let go of every directory; mounts stay. Blocking, after the loop. Idempotent."""
        self.managed.shutdown()
        for lane in (self._finding, self._mounting, self._sweeping):
            lane.shutdown()
        self._left.update(str(self._root.ephemeral / job_id) for job_id in self._awaited)
        while self._jobs:
            job_id, opened = self._jobs.popitem()
            self._left.update(f"{slot}/{WORKSPACE}" for slot in opened.slots)
            if opened.spec.kind is WorkspaceKind.EPHEMERAL:
                self._left.add(str(self._root.ephemeral / job_id))
            self._places.let_go(opened.source)

    async def leftovers(self) -> tuple[MountPoint, ...]:
        """Every mount below the runtime directory, also of an earlier process, the deepest first."""
        return await self._mounting.run(self._root.leftovers)

    async def prepare(self, slot: str, uid: int) -> None:
        """The namespaces made ready are those of managed workspaces, and of the owners of the ones open now."""
        await self._mounting.run(partial(self._root.prepare_slot, slot))
        owners = {self._managed, *(opened.source.owner for opened in self._jobs.values())}
        await self._finding.run(partial(_made_ready, self._namespaces, owners, uid))

    async def open(self, job_id: JobId, tenant: TenantId, spec: WorkspaceSpec) -> None:
        spec.validate()
        if job_id not in self._jobs:
            find = partial(_found, self._places, self._binder, job_id, tenant, spec)
            source = await self._finding.run(find, self._places.let_go)
            if job_id not in self._jobs:
                self._jobs[job_id] = _Opened(tenant, spec, source)
                self._awaited.discard(job_id)
                return
            self._places.let_go(source)  # somebody else opened it while we looked
        opened = self._jobs[job_id]
        if (opened.tenant, opened.spec) != (tenant, spec):
            message = (
                f"job {job_id} has the workspace {opened.spec} open and cannot open {spec} beside it; close it first"
            )
            raise PerstackError(Kind.CONFLICT, "workspace_open", message)

    async def settle(self, job_ids: Collection[JobId]) -> frozenset[JobId]:
        there = await self._mounting.run(partial(self._places.keep_ephemeral, frozenset(job_ids)))
        self._awaited = set(there) - self._jobs.keys()
        return there

    async def attach(
        self, job_id: JobId, sandbox_id: SandboxId, slot: str, uid: int, *, read_only: bool = False
    ) -> None:
        bind = partial(_attach, self._binder, self._opened(job_id, sandbox_id), slot, uid, read_only=read_only)
        take_off = partial(_take_off, self._markers, self._jobs, slot)
        await self._mounting.run(bind, lambda _: take_off())

    async def take_over(
        self, job_id: JobId, sandbox_id: SandboxId, slot: str, uid: int, *, read_only: bool = False
    ) -> None:
        look = partial(_take_over, self._binder, self._opened(job_id, sandbox_id), slot, uid, read_only=read_only)
        await self._mounting.run(look)

    async def detach(self, sandbox_id: SandboxId, slot: str) -> None:
        await self._mounting.run(partial(_take_off, self._markers, self._jobs, slot))

    async def close(self, job_id: JobId) -> None:
        opened = self._jobs.pop(job_id, None)
        self._awaited.discard(job_id)
        finish = partial(_finish, self._places, opened)
        take_down = partial(_take_down, self._root, self._places, job_id, opened)
        if opened is None:  # an `open` that was left in the middle makes an ephemeral one all the same
            self._finding.later(lambda: self._mounting.later(take_down))
        try:
            await self._mounting.run(take_down)
        except BaseException:
            self._mounting.later(lambda: self._sweeping.later(finish))  # once nothing in that lane uses the descriptor
            raise
        await self._sweeping.run(finish)

    async def prove(self, slot: str, uid: int) -> str:
        attach = partial(self._markers.attach, slot, uid)
        return await self._mounting.run(attach, lambda _: self._markers.detach(slot))

    def _opened(self, job_id: JobId, sandbox_id: SandboxId) -> _Opened:
        opened = self._jobs.get(job_id)
        if opened is None:
            message = f"sandbox {sandbox_id} was to get the workspace of job {job_id}, which is not open"
            raise PerstackError(Kind.PRECONDITION, "workspace_not_open", message)
        return opened


# --- in a lane --------------------------------------------------------------------------------------------------------
def _found(places: Places, binder: Binder, job_id: JobId, tenant: TenantId, spec: WorkspaceSpec) -> Source:
    source = places.find(job_id, tenant, spec)
    try:
        binder.check(source)
    except BaseException:
        places.let_go(source)
        raise
    return source


def _attach(binder: Binder, opened: _Opened, slot: str, uid: int, *, read_only: bool) -> None:
    binder.bind(opened.source, slot, uid, read_only=read_only or opened.spec.read_only)
    opened.slots.add(slot)


def _take_over(binder: Binder, opened: _Opened, slot: str, uid: int, *, read_only: bool) -> None:
    binder.verify(opened.source, slot, uid, read_only=read_only or opened.spec.read_only)
    opened.slots.add(slot)


def _take_off(markers: Markers, jobs: dict[JobId, _Opened], slot: str) -> None:
    markers.detach(slot)
    for opened in list(jobs.values()):
        opened.slots.discard(slot)


def _made_ready(namespaces: UserNamespaces, owners: set[Owner], uid: int) -> None:
    for owner in owners:
        os.close(namespaces.get(owner, uid))


def _take_down(root: RuntimeRoot, places: Places, job_id: JobId, opened: _Opened | None) -> None:
    while opened is not None and opened.slots:
        root.clear_slot(opened.slots.pop())
    places.remove_ephemeral(job_id)


def _finish(places: Places, opened: _Opened | None) -> None:
    if opened is None:
        return
    try:
        if opened.spec.kind is WorkspaceKind.NAMED:
            _swept(opened.source)
    finally:
        places.let_go(opened.source)


def _swept(source: Source) -> None:
    swept = sweep(source.descriptor)
    if swept.cleared or swept.removed or not swept.complete:
        _log.warning(
            "workspace_swept",
            workspace=source.name,
            entries=swept.entries,
            set_id_cleared=swept.cleared,
            devices_removed=swept.removed,
            complete=swept.complete,
        )
