"""WorkspaceService: the workspaces that the daemon keeps under a name."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final, cast

import anyio
from perstack.v1 import workspaces_pb2 as pb
from perstack.v1 import workspaces_pb2_grpc

from perstackd.app.workspaces import Workspaces
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import TenantId
from perstackd.domain.workspace import NamedWorkspace
from perstackd.rpc import convert

READ_SECONDS: Final = 60.0
"""How long a client may take to read the next piece of a download."""


class WorkspaceServicer(workspaces_pb2_grpc.WorkspaceServiceServicer):
    """Thin: every rule is in `app`."""

    def __init__(self, workspaces: Workspaces) -> None:
        self._workspaces = workspaces

    async def ListWorkspaces(  # noqa: N802
        self, request: pb.ListWorkspacesRequest, context: Any
    ) -> pb.ListWorkspacesResponse:
        tenant = convert.tenant(request.tenant)
        found = await self._workspaces.all(tenant)
        return pb.ListWorkspacesResponse(workspaces=[_workspace(tenant, each) for each in found])

    async def CreateWorkspace(  # noqa: N802
        self, request: pb.CreateWorkspaceRequest, context: Any
    ) -> pb.CreateWorkspaceResponse:
        tenant = convert.tenant(request.tenant)
        made = await self._workspaces.create(tenant, request.name, request.max_bytes)
        return pb.CreateWorkspaceResponse(workspace=_workspace(tenant, made))

    async def DeleteWorkspace(  # noqa: N802
        self, request: pb.DeleteWorkspaceRequest, context: Any
    ) -> pb.DeleteWorkspaceResponse:
        await self._workspaces.remove(convert.tenant(request.tenant), request.name)
        return pb.DeleteWorkspaceResponse()

    async def DownloadWorkspace(self, request: pb.DownloadWorkspaceRequest, context: Any) -> None:  # type: ignore[override]  # noqa: N802
        """A coroutine that writes, so that a client which does not read has a bound."""
        download = self._workspaces.download(convert.tenant(request.tenant), request.name, request.path)
        async with aclosing(cast("AsyncGenerator[bytes, None]", download)) as pieces:
            async for piece in pieces:
                try:
                    with anyio.fail_after(READ_SECONDS):
                        await context.write(pb.DownloadWorkspaceResponse(data=piece))
                except TimeoutError as error:
                    message = f"nothing was read for {READ_SECONDS:g} s; get the workspace again"
                    raise PerstackError(Kind.TIMEOUT, "download_stalled", message, retryable=True) from error

    async def UploadWorkspace(  # noqa: N802
        self, requests: AsyncIterator[pb.UploadWorkspaceRequest], context: Any
    ) -> pb.UploadWorkspaceResponse:
        first = await anext(requests, pb.UploadWorkspaceRequest())
        tenant = convert.tenant(first.tenant)
        done = await self._workspaces.upload(tenant, first.name, first.path, _data(first, requests))
        return pb.UploadWorkspaceResponse(files=done.files, bytes=done.bytes)


async def _data(
    first: pb.UploadWorkspaceRequest, requests: AsyncIterator[pb.UploadWorkspaceRequest]
) -> AsyncIterator[bytes]:
    yield first.data
    async for request in requests:
        yield request.data


def _workspace(tenant: TenantId, value: NamedWorkspace) -> pb.NamedWorkspace:
    return pb.NamedWorkspace(
        tenant=tenant,
        name=value.name,
        bytes=value.bytes,
        files=value.files,
        uncounted=not value.counted,
        max_bytes=value.quota.bytes if value.quota else 0,
        max_files=value.quota.inodes if value.quota else 0,
        used_at=value.used_at,
        job_ids=value.holders,
    )
