"""An in-memory twin of the named workspaces. Knows files and directories, no links."""

import io
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import TenantId
from perstackd.domain.workspace import NamedWorkspace, Quota, Unpacked, named

SMALLEST = 16 << 20


@dataclass
class FakeNamed:
    quota: Quota
    files: dict[str, bytes] = field(default_factory=dict)


class FakeManagedWorkspaces:
    """Implements `perstackd.ports.workspaces.ManagedWorkspaces`. `busy` are names that something has open."""

    def __init__(self, default: int = 64 << 20) -> None:
        self.default = default
        self.found: dict[tuple[TenantId, str], FakeNamed] = {}
        self.busy: set[str] = set()
        self.now = 1_732_000_000_000

    async def all(self, tenant: TenantId) -> tuple[NamedWorkspace, ...]:
        mine = sorted((name, found) for (owner, name), found in self.found.items() if owner == tenant)
        return tuple(self._shown(name, found) for name, found in mine)

    async def create(self, tenant: TenantId, name: str, max_bytes: int) -> NamedWorkspace:
        named(name)
        if max_bytes and not SMALLEST <= max_bytes <= self.default:
            raise PerstackError(Kind.INVALID, "workspace_quota_invalid", f"{max_bytes} bytes are not possible")
        if (tenant, name) in self.found:
            raise PerstackError(Kind.ALREADY_EXISTS, "workspace_exists", f"there is a workspace {name!r} already")
        made = self.found[tenant, name] = FakeNamed(Quota(max_bytes or self.default, 1000))
        return self._shown(name, made)

    async def remove(self, tenant: TenantId, name: str) -> None:
        self._get(tenant, name)
        if name in self.busy:
            raise PerstackError(Kind.CONFLICT, "workspace_in_use", f"the workspace {name!r} is in use")
        del self.found[tenant, name]

    async def pack(self, tenant: TenantId, name: str, path: str) -> AsyncIterator[bytes]:
        files = self._get(tenant, name).files
        below = f"{path}/" if path else ""
        chosen = {at.removeprefix(below): text for at, text in files.items() if at.startswith(below)}
        if path in files:
            chosen = {path.rpartition("/")[2]: files[path]}
        if path and not chosen:
            raise PerstackError(Kind.NOT_FOUND, "workspace_file_not_found", f"the workspace has no {path!r}")
        yield archive(chosen)

    async def unpack(self, tenant: TenantId, name: str, path: str, archive: AsyncIterator[bytes]) -> Unpacked:
        workspace = self._get(tenant, name)
        data = b"".join([piece async for piece in archive])
        brought = _read(data)
        size = sum(map(len, brought.values()))
        if size > workspace.quota.bytes:
            raise PerstackError(Kind.EXHAUSTED, "archive_too_large", "the archive holds more than the workspace may")
        workspace.files |= {f"{path}/{at}" if path else at: text for at, text in brought.items()}
        return Unpacked(len(brought), size)

    def _get(self, tenant: TenantId, name: str) -> FakeNamed:
        named(name)
        if (tenant, name) not in self.found:
            raise PerstackError(Kind.NOT_FOUND, "workspace_not_found", f"there is no workspace {name!r}")
        return self.found[tenant, name]

    def _shown(self, name: str, found: FakeNamed) -> NamedWorkspace:
        size = sum(map(len, found.files.values()))
        return NamedWorkspace(name, size, len(found.files), counted=True, quota=found.quota, used_at=self.now)


def archive(files: dict[str, bytes]) -> bytes:
    """A tar archive of plain files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as writing:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            writing.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def contents(data: bytes) -> dict[str, bytes]:
    """The plain files of an archive."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as reading:
        plain = [entry for entry in reading if entry.isreg()]
    return {entry.name: data[entry.offset_data : entry.offset_data + entry.size] for entry in plain}


def _read(data: bytes) -> dict[str, bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as reading:
            unsafe = [
                entry.name for entry in reading if not entry.isreg() or ".." in entry.name or entry.name[:1] == "/"
            ]
    except tarfile.TarError as error:
        raise PerstackError(Kind.INVALID, "archive_invalid", f"the archive cannot be read: {error}") from error
    if unsafe:
        raise PerstackError(Kind.DENIED, "archive_refused", f"the archive's entry {unsafe[0]!r} is refused")
    return contents(data)
