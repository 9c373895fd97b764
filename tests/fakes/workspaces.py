"""An in-memory twin of the workspaces adapter. `seen` and `probe` are what a sandbox finds at /mnt of its slot."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import JobId, SandboxId, TenantId
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec

MANAGED_OWNER = 1000


@dataclass(slots=True)
class FakeDirectory:
    """A directory on the host: who owns it and what lies in it."""

    owner: int = MANAGED_OWNER
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FakeMount:
    """One attachment: what a slot shows, as whom, and whether it may be changed."""

    directory: FakeDirectory
    shown_as: int
    read_only: bool = False


class FakeWorkspaces:
    """Implements `perstackd.ports.workspaces.Workspaces`.

    Switches: `open_error` and `attach_error` are raised while set; `blind` makes every mount invisible inside
    (as from a private mount namespace); `paths` holds the host's directories, `roots` those that may be used.
    """

    def __init__(self, roots: Sequence[str] = ("/srv",)) -> None:
        self.roots = tuple(roots)
        self.paths: dict[str, FakeDirectory] = {}
        self.named: dict[tuple[TenantId, str], FakeDirectory] = {}
        self.ephemeral: dict[JobId, FakeDirectory] = {}
        self.slots: set[str] = set()
        self.jobs: dict[JobId, tuple[TenantId, WorkspaceSpec, FakeDirectory]] = {}
        self.mounts: dict[str, FakeMount] = {}
        self.open_error: PerstackError | None = None
        self.attach_error: PerstackError | None = None
        self.blind = False
        self._markers = 0

    async def prepare(self, slot: str, uid: int) -> None:
        self.slots.add(slot)

    async def open(self, job_id: JobId, tenant: TenantId, spec: WorkspaceSpec) -> None:
        spec.validate()
        if self.open_error is not None:
            raise self.open_error
        if job_id in self.jobs:
            if self.jobs[job_id][:2] != (tenant, spec):
                raise PerstackError(Kind.CONFLICT, "workspace_open", f"job {job_id} has another workspace open")
            return
        directory = self.ephemeral.get(job_id) or self._find(tenant, spec)
        self.jobs[job_id] = (tenant, spec, directory)
        if spec.kind is WorkspaceKind.EPHEMERAL:
            self.ephemeral[job_id] = directory

    async def settle(self, job_ids: Collection[JobId]) -> frozenset[JobId]:
        self.ephemeral = {job_id: found for job_id, found in self.ephemeral.items() if job_id in job_ids}
        return frozenset(self.ephemeral)

    async def attach(
        self, job_id: JobId, sandbox_id: SandboxId, slot: str, uid: int, *, read_only: bool = False
    ) -> None:
        if self.attach_error is not None:
            raise self.attach_error
        if job_id not in self.jobs:
            raise PerstackError(Kind.PRECONDITION, "workspace_not_open", f"job {job_id} has no open workspace")
        _, spec, directory = self.jobs[job_id]
        self._mount(slot, FakeMount(directory, uid, read_only or spec.read_only))

    async def take_over(
        self, job_id: JobId, sandbox_id: SandboxId, slot: str, uid: int, *, read_only: bool = False
    ) -> None:
        if job_id not in self.jobs:
            raise PerstackError(Kind.PRECONDITION, "workspace_not_open", f"job {job_id} has no open workspace")
        _, spec, directory = self.jobs[job_id]
        mount = self.mounts.get(slot)
        same = mount is not None and mount.directory is directory and mount.shown_as == uid
        if not same or (mount is not None and mount.read_only != (read_only or spec.read_only)):
            raise PerstackError(Kind.PRECONDITION, "workspace_unsafe", f"{slot} has another workspace, or none")

    async def detach(self, sandbox_id: SandboxId, slot: str) -> None:
        self.mounts.pop(slot, None)

    async def close(self, job_id: JobId) -> None:
        self.jobs.pop(job_id, None)
        self.ephemeral.pop(job_id, None)

    async def prove(self, slot: str, uid: int) -> str:
        if self.attach_error is not None:
            raise self.attach_error
        self._markers += 1
        token = f"{self._markers:032x}"
        self._mount(slot, FakeMount(FakeDirectory(files={"marker": token.encode()}), uid, read_only=True))
        return token

    # --- what a test or a fake sandbox looks at ---------------------------------------------------------------------
    def seen(self, slot: str) -> Mapping[str, bytes] | None:
        """The files that the sandbox of `slot` finds in its workspace; None when nothing is attached."""
        mount = self.mounts.get(slot)
        return None if mount is None or self.blind else mount.directory.files

    def probe(self, slot: str, path: str) -> bytes | None:
        """What the runner of `slot` answers to a Probe of `path` (below /mnt/workspace)."""
        files = self.seen(slot)
        return None if files is None else files.get(path.removeprefix("/mnt/workspace/"))

    def write(self, slot: str, name: str, content: bytes) -> None:
        """Write as the sandbox does. Raises OSError when nothing is attached or it is read-only."""
        mount = self.mounts.get(slot)
        if mount is None or self.blind or mount.read_only:
            raise OSError(f"{slot}/workspace/{name} cannot be written")
        mount.directory.files[name] = content

    # --- inside -----------------------------------------------------------------------------------------------------
    def _find(self, tenant: TenantId, spec: WorkspaceSpec) -> FakeDirectory:
        match spec.kind:
            case WorkspaceKind.EPHEMERAL:
                return FakeDirectory()
            case WorkspaceKind.NAMED:
                return self.named.setdefault((tenant, spec.value), FakeDirectory())
            case WorkspaceKind.PATH:
                return self._host_path(spec.value)

    def _host_path(self, path: str) -> FakeDirectory:
        if not any(path == root or path.startswith(root.rstrip("/") + "/") for root in self.roots):
            raise PerstackError(Kind.DENIED, "workspace_outside_roots", f"{path} is not below {self.roots}")
        directory = self.paths.get(path)
        if directory is None:
            raise PerstackError(Kind.NOT_FOUND, "workspace_not_found", f"{path} does not exist")
        if directory.owner < 1000:
            raise PerstackError(Kind.DENIED, "workspace_owner_refused", f"{path} belongs to uid {directory.owner}")
        return directory

    def _mount(self, slot: str, mount: FakeMount) -> None:
        if slot not in self.slots:
            raise PerstackError(Kind.PRECONDITION, "slot_missing", f"{slot} was not prepared")
        if slot in self.mounts:
            raise PerstackError(Kind.CONFLICT, "slot_taken", f"{slot} has a workspace already")
        self.mounts[slot] = mount
