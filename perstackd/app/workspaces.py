"""Named workspaces as people see them: listed with the jobs that have them, made, filled, read, removed.

Above it is the servicer; below are the port, which knows files, and `WorkspaceHolds`, which knows jobs. A workspace may
be filled and read while a job works in it: the port is safe against that.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Final, cast

import anyio

from perstackd.app.workspace_holds import WorkspaceHolds
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import TenantId
from perstackd.domain.workspace import NamedWorkspace, Unpacked, WorkspaceKind, named
from perstackd.ports.workspaces import ManagedWorkspaces

PIECE_BYTES: Final = 256 << 10
PIECE_SECONDS: Final = 60.0
"""How long the next piece of an upload may take."""


class Workspaces:
    """Thin rules over the port."""

    def __init__(self, managed: ManagedWorkspaces, holds: WorkspaceHolds) -> None:
        self._managed = managed
        self._holds = holds

    async def all(self, tenant: TenantId) -> tuple[NamedWorkspace, ...]:
        """Every one of the tenant's, by name."""
        return tuple(self._with_holders(tenant, found) for found in await self._managed.all(tenant))

    async def create(self, tenant: TenantId, name: str, max_bytes: int) -> NamedWorkspace:
        """Make an empty one.

        Raises:
            PerstackError: INVALID `workspace_invalid` for the name that stands for another kind; and as the port does.
        """
        if name == WorkspaceKind.EPHEMERAL:
            message = f"a workspace cannot be called {name!r}: a job that asks for it gets one that goes with the job"
            raise PerstackError(Kind.INVALID, "workspace_invalid", message)
        return await self._managed.create(tenant, name, max_bytes)

    async def remove(self, tenant: TenantId, name: str) -> None:
        """Raises PerstackError CONFLICT `workspace_in_use` while a job or a transfer has it, and as the port does."""
        named(name)
        with self._holds.removal(tenant, name):
            await self._managed.remove(tenant, name)

    async def download(self, tenant: TenantId, name: str, path: str) -> AsyncIterator[bytes]:
        """A tar archive in pieces of at most `PIECE_BYTES`. Raises as the port does."""
        named(name)
        pieces = cast("AsyncGenerator[bytes, None]", self._managed.pack(tenant, name, path))
        async with aclosing(pieces) as archive:
            async for piece in archive:
                yield piece

    async def upload(self, tenant: TenantId, name: str, path: str, archive: AsyncIterator[bytes]) -> Unpacked:
        """Unpack an archive that arrives in pieces of at most `PIECE_BYTES`, all or nothing.

        Raises:
            PerstackError: INVALID `piece_too_large`; TIMEOUT `upload_stalled`; as the port does.
        """
        named(name)
        return await self._managed.unpack(tenant, name, path, _bounded(archive))

    def _with_holders(self, tenant: TenantId, found: NamedWorkspace) -> NamedWorkspace:
        return replace(found, holders=self._holds.holders(tenant, found.name))


async def _bounded(archive: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        try:
            with anyio.fail_after(PIECE_SECONDS):
                piece = await anext(archive, None)
        except TimeoutError as error:
            message = f"no piece of the archive came for {PIECE_SECONDS:g} s; nothing was unpacked, send it again"
            raise PerstackError(Kind.TIMEOUT, "upload_stalled", message, retryable=True) from error
        if piece is None:
            return
        if len(piece) > PIECE_BYTES:
            message = f"a piece of the archive has {len(piece)} bytes; send at most {PIECE_BYTES} at a time"
            raise PerstackError(Kind.INVALID, "piece_too_large", message)
        yield piece
