"""The traces port on this host: finds shims, cgroups, mounts and sockets, and takes away what it is told to.

Above it is the pool, which decides; `domain.traces` says what is ours. Nothing is taken from a container that the
engine knows: it is asked once more, by the container's id, right before.
"""

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

from perstackd.adapters.docker.cgroups import container_cgroups, end_cgroups, remove_cgroup
from perstackd.adapters.docker.ledger import Ledger
from perstackd.adapters.docker.shims import Shims, end_shim
from perstackd.adapters.workspaces.mountinfo import mounts
from perstackd.adapters.workspaces.root import unmount_all
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.traces import Leftover, Shim, Snapshot, container_of, owner_of

_SOCKETS: Final = Path("/run/containerd/s")  # containerd's DefaultStateDir, whatever its own directories are
_ENGINES: Final = frozenset(
    (f"{directory}/containerd/containerd.sock", "moby") for directory in ("/var/run/docker", "/run/docker", "/run")
)
_MOST_ENGINES: Final = 16


class HostTraces:
    """Implements `Traces`. `runtime` is the runtime directory; `knows` asks the engine for a container's id."""

    def __init__(
        self, runtime: str, ledger: Ledger, knows: Callable[[str], Awaitable[bool]], sockets: Path = _SOCKETS
    ) -> None:
        self._runtime = runtime
        self._ledger = ledger
        self._knows = knows
        self._sockets = sockets
        self._shims = Shims()
        self._engines = _ENGINES

    async def look(self) -> Snapshot:
        return await asyncio.to_thread(self._look)

    async def remove(self, leftover: Leftover) -> None:
        container = leftover.container_id
        if container and await self._knows(container):
            raise PerstackError(
                Kind.CONFLICT,
                "container_known",
                f"the engine knows the container {container} of sandbox {leftover.sandbox_id}, but not as this "
                f"daemon's; nothing of it is touched. If it is to go: docker rm --force {container}",
                fields={"sandbox_id": leftover.sandbox_id},
            )
        left = await asyncio.to_thread(_removed, leftover)
        if left:
            raise PerstackError(
                Kind.UNAVAILABLE,
                "traces_left",
                f"of sandbox {leftover.sandbox_id} there is still: {'; '.join(left)}; it is tried again",
                fields={"sandbox_id": leftover.sandbox_id},
                retryable=True,
            )

    async def forget(self, container_ids: Collection[str]) -> None:
        if container_ids:
            await asyncio.to_thread(self._ledger.forget, frozenset(container_ids))

    def _look(self) -> Snapshot:
        noted, mounted = self._ledger.noted(), mounts()
        snapshot = Snapshot(
            self._runtime,
            noted,
            self._shims.all(noted),
            container_cgroups(mounted),
            tuple(mount.path for mount in mounted),
            tuple(f"{self._sockets}/{name}" for name in _names(self._sockets)),
        )
        return self._with_engines(snapshot)

    def _with_engines(self, snapshot: Snapshot) -> Snapshot:
        """The engine of our shims stays known after they are gone."""
        ours = (shim for shim in snapshot.shims if owner_of(shim, snapshot))
        engines = self._engines | {_engine(shim) for shim in ours}
        self._engines = engines if len(engines) <= _MOST_ENGINES else _ENGINES
        return replace(snapshot, engines=engines)


# --- on a thread ----------------------------------------------------------------------------------------------------
def _removed(leftover: Leftover) -> tuple[str, ...]:
    """What stays. Processes first: what they hold cannot be taken away. The engine's containerd may be clearing up as
    well once the shim is gone.
    """
    cgroups = tuple(path for path in leftover.cgroups if container_of(path.rpartition("/")[2]) == leftover.container_id)
    left = [f"processes in {path}" for path in end_cgroups(cgroups, leftover.container_id)]
    left += [f"process {shim.pid}" for shim in leftover.shims if not end_shim(shim)]
    if left:
        return tuple(left)
    present = {mount.path for mount in mounts()}
    for path in sorted(present.intersection(leftover.mounts), key=lambda path: -path.count("/")):
        unmount_all(path)
    for path in leftover.sockets:
        _unlink(path)
    return tuple(filter(None, map(remove_cgroup, cgroups)))


def _unlink(path: str) -> None:
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            Path(path).unlink()
    except FileNotFoundError:
        return


def _engine(shim: Shim) -> tuple[str, str]:
    return shim.option("-address"), shim.option("-namespace")


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208  names only
    except FileNotFoundError:
        return []
