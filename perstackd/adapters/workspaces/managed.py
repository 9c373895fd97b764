"""Named workspaces for people: listed, made, filled, read, removed. Implements `ports.workspaces.ManagedWorkspaces`.

Shares `NamedStore` with the workspaces of jobs, and has threads of its own, so that a large archive delays no claim.
"""

import os
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final

from perstackd.adapters.workspaces.counting import counted
from perstackd.adapters.workspaces.lane import Lane
from perstackd.adapters.workspaces.named import Held, NamedStore
from perstackd.adapters.workspaces.packing import CHUNK, packed
from perstackd.adapters.workspaces.settings import MIN_NAMED, HostSettings, sized
from perstackd.adapters.workspaces.unpacking import Unpacking
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import TenantId
from perstackd.domain.workspace import NamedWorkspace, Quota, Unpacked

MAX_TRANSFERS: Final = 4
MAX_ENTRIES: Final = 500_000
_STEP_SECONDS: Final = 60.0


class HostManagedWorkspaces:
    """All methods belong to the event loop's thread; `shutdown` comes after it."""

    def __init__(self, settings: HostSettings, store: NamedStore) -> None:
        self._settings = settings
        self._store = store
        self._transfers = 0
        self._looking = Lane("workspace-look", _STEP_SECONDS)
        self._copying = Lane("workspace-copy", _STEP_SECONDS)

    def shutdown(self) -> None:
        """End the threads. Blocking. Idempotent."""
        self._looking.shutdown()
        self._copying.shutdown()

    async def all(self, tenant: TenantId) -> tuple[NamedWorkspace, ...]:
        names = await self._looking.run(partial(self._store.names, tenant))
        found = [await self._looking.run(partial(self._looked_at, tenant, name)) for name in names]
        return tuple(each for each in found if each is not None)

    async def create(self, tenant: TenantId, name: str, max_bytes: int) -> NamedWorkspace:
        quota = self._quota(max_bytes)
        await self._looking.run(partial(self._store.create, tenant, name, quota))
        return await self._looking.run(partial(_look_at, self._store, tenant, name))

    async def remove(self, tenant: TenantId, name: str) -> None:
        await self._looking.run(partial(self._store.remove, tenant, name))

    async def pack(self, tenant: TenantId, name: str, path: str) -> AsyncIterator[bytes]:
        async with self._held(tenant, name) as held:
            pieces = await self._copying.run(partial(_packing, held, path))
            try:
                while piece := await self._copying.run(partial(next, pieces, b"")):
                    yield piece
            finally:
                self._copying.later(pieces.close)

    async def unpack(self, tenant: TenantId, name: str, path: str, archive: AsyncIterator[bytes]) -> Unpacked:
        async with self._held(tenant, name) as held:
            begin = partial(_unpacking, held, path, self._settings.managed_uid)
            unpacking = await self._copying.run(begin, Unpacking.close)
            try:
                async for piece in archive:
                    await self._copying.run(partial(unpacking.feed, piece))
                return await self._copying.run(unpacking.finish)
            finally:
                self._copying.later(unpacking.close)

    # --- inside -----------------------------------------------------------------------------------------------------
    @asynccontextmanager
    async def _held(self, tenant: TenantId, name: str) -> AsyncIterator[Held]:
        """Given back behind what is still done with it in the lane, also when the caller has left."""
        with self._one_transfer():
            hold = partial(self._store.hold, tenant, name, make=False)
            held = await self._copying.run(hold, self._store.let_go)
            try:
                yield held
            finally:
                await self._copying.run(partial(self._store.let_go, held))

    @contextmanager
    def _one_transfer(self) -> Iterator[None]:
        if self._transfers >= MAX_TRANSFERS:
            message = f"{MAX_TRANSFERS} workspaces are being copied already; try again in a moment"
            raise PerstackError(Kind.EXHAUSTED, "too_many_transfers", message, retryable=True)
        self._transfers += 1
        try:
            yield
        finally:
            self._transfers -= 1

    def _quota(self, max_bytes: int) -> Quota | None:
        cap = self._settings.named_bytes
        if not max_bytes:
            return self._settings.quota
        if max_bytes < MIN_NAMED or (cap and max_bytes > cap):
            most = f" and at most {_mib(cap)}, the daemon's workspaces.named_bytes" if cap else ""
            message = f"a workspace of {_mib(max_bytes)} is not possible: it has at least {_mib(MIN_NAMED)}{most}"
            raise PerstackError(Kind.INVALID, "workspace_quota_invalid", message)
        return sized(max_bytes, self._settings.named_inodes)

    def _looked_at(self, tenant: TenantId, name: str) -> NamedWorkspace | None:
        try:
            return _look_at(self._store, tenant, name)
        except PerstackError as error:
            if error.kind is Kind.NOT_FOUND:
                return None  # it was removed since it was listed
            if error.reason == "workspace_damaged":
                return NamedWorkspace(name, 0, 0, counted=False, quota=None, used_at=0)
            raise


def _mib(size: int) -> str:
    return f"{size} bytes" if size % (1 << 20) else f"{size >> 20} MiB"


# --- in a lane --------------------------------------------------------------------------------------------------------
def _look_at(store: NamedStore, tenant: TenantId, name: str) -> NamedWorkspace:
    quota, usage, used_at = store.size(tenant, name)
    whole = True
    if usage is None:
        held = store.hold(tenant, name, make=False, use=False)
        try:
            usage, whole = counted(held.data)
        finally:
            store.let_go(held, use=False)
    return NamedWorkspace(name, usage.bytes, usage.files, counted=whole, quota=quota, used_at=used_at)


def _packing(held: Held, path: str) -> Generator[bytes, None, None]:
    disk = os.fstatvfs(held.data)
    most = held.quota or Quota(disk.f_blocks * disk.f_frsize, MAX_ENTRIES)
    return _gathered(packed(held.data, path, most.bytes, most.inodes))


def _unpacking(held: Held, path: str, owner: int) -> Unpacking:
    """Without a size of its own, an archive may take the half of what the disk has left."""
    disk = os.fstatvfs(held.data)
    return Unpacking(held, path, held.quota or Quota(disk.f_bavail * disk.f_frsize // 2, MAX_ENTRIES), owner)


def _gathered(pieces: Iterator[bytes]) -> Generator[bytes, None, None]:
    """The same bytes in pieces of `CHUNK`, the last one shorter."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= CHUNK:
            yield bytes(waiting[:CHUNK])
            del waiting[:CHUNK]
    if waiting:
        yield bytes(waiting)
