"""Methods on the workspaces that the daemon keeps. Made by `Client.workspaces`, for as long as it is open."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Final

import grpc.aio
from perstack.v1 import workspaces_pb2 as pb
from perstack.v1 import workspaces_pb2_grpc

from perstackctl.client.calling import Call, Explain
from perstackctl.client.sending import send_all

_PIECE: Final = 256 << 10
_LONG_SECONDS: Final = 3600.0
"""Of a whole archive."""


@dataclass(frozen=True, slots=True)
class NamedWorkspace:
    """What is known of a workspace. `bytes` and `files` are at least that when not `counted`; `max_bytes` and
    `max_files` are 0 where nothing caps them. `used_at` is milliseconds since the Unix epoch.
    """

    name: str
    tenant: str
    bytes: int
    files: int
    counted: bool
    max_bytes: int
    max_files: int
    used_at: int
    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What an archive brought."""

    files: int
    bytes: int


class NamedWorkspaces:
    """Every method raises ClientError and nothing else of the wire."""

    def __init__(self, channel: grpc.aio.Channel, call: Call, explain: Explain) -> None:
        self._stub = workspaces_pb2_grpc.WorkspaceServiceStub(channel)
        self._call = call
        self._explain = explain

    async def list(self, tenant: str = "") -> tuple[NamedWorkspace, ...]:
        """Every one of the tenant's, by name."""
        reply = await self._call(self._stub.ListWorkspaces, pb.ListWorkspacesRequest(tenant=tenant))
        return tuple(map(_workspace, reply.workspaces))

    async def create(self, name: str, max_bytes: int = 0, tenant: str = "") -> NamedWorkspace:
        """Make an empty one; 0 means as large as the daemon's operator says."""
        request = pb.CreateWorkspaceRequest(tenant=tenant, name=name, max_bytes=max_bytes)
        return _workspace((await self._call(self._stub.CreateWorkspace, request, repeat=False)).workspace)

    async def remove(self, name: str, tenant: str = "") -> None:
        """Delete it with all that is in it.

        Raises:
            ConflictError: reason `workspace_in_use`; metadata `job_id` names the job that has it.
        """
        request = pb.DeleteWorkspaceRequest(tenant=tenant, name=name)
        await self._call(self._stub.DeleteWorkspace, request, repeat=False)

    async def download(self, name: str, path: str = "", tenant: str = "") -> AsyncGenerator[bytes, None]:
        """A tar archive, piece by piece; it is good only once it came to its end without an error."""
        request = pb.DownloadWorkspaceRequest(tenant=tenant, name=name, path=path)
        stream = self._stub.DownloadWorkspace(request, timeout=_LONG_SECONDS)
        try:
            async for reply in stream:
                yield reply.data
        except grpc.aio.AioRpcError as error:
            raise await self._explain(error) from None

    async def upload(self, name: str, archive: AsyncIterator[bytes], path: str = "", tenant: str = "") -> Uploaded:
        """Unpack a tar archive into its directory `path`, all or nothing.

        Raises:
            InvalidError: `archive_invalid`; RefusedError: `archive_refused`, `archive_too_large`, `workspace_full`;
                PreconditionError: `archive_conflict`. Nothing was changed.
        """
        first = pb.UploadWorkspaceRequest(tenant=tenant, name=name, path=path)
        try:
            call = self._stub.UploadWorkspace(timeout=_LONG_SECONDS)
            reply = await send_all(call, _requests(first, archive))
        except grpc.aio.AioRpcError as error:
            raise await self._explain(error) from None
        return Uploaded(reply.files, reply.bytes)


async def _requests(
    first: pb.UploadWorkspaceRequest, archive: AsyncIterator[bytes]
) -> AsyncIterator[pb.UploadWorkspaceRequest]:
    yield first
    async for piece in archive:
        for offset in range(0, len(piece), _PIECE):
            yield pb.UploadWorkspaceRequest(data=piece[offset : offset + _PIECE])


def _workspace(m: pb.NamedWorkspace) -> NamedWorkspace:
    amounts = (m.bytes, m.files, not m.uncounted, m.max_bytes, m.max_files)
    return NamedWorkspace(m.name, m.tenant, *amounts, m.used_at, tuple(m.job_ids))
