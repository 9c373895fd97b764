"""The halts port on this host: a container's processes are found by its cgroup and killed, whatever the engine does."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

from perstackd.adapters.docker.cgroups import container_cgroups, end_cgroups
from perstackd.adapters.workspaces.mountinfo import MountPoint, mounts
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.traces import container_of, is_container


class HostHalts:
    """Implements `Halts`. Where the last container's cgroup was, the next one's is looked for first."""

    def __init__(self) -> None:
        self._last: tuple[str, str] | None = None

    async def halt(self, container_id: str) -> None:
        if not is_container(container_id):
            return  # it was never started
        try:
            left = await asyncio.to_thread(self._halted, container_id)
        except OSError as error:
            left = (f"its cgroup cannot be read: {error}",)
        if left:
            raise PerstackError(
                Kind.UNAVAILABLE,
                "sandbox_unstoppable",
                f"processes of the container {container_id[:12]} live on after SIGKILL, in {', '.join(left)}; see what "
                "they wait for in the kernel (/proc/PID/stack), then start the job again",
                retryable=True,
            )

    def _halted(self, container_id: str) -> tuple[str, ...]:
        """The cgroups that still have processes. In a thread."""
        guess = container_id.join(self._last) if self._last is not None else ""
        found = (guess,) if guess and Path(guess).is_dir() else _found(container_id)
        if len(found) == 1:  # of one that had several, a guess would find one
            before, _, after = found[0].rpartition(container_id)
            self._last = (before, after)
        return end_cgroups(found, container_id)


def _found(container_id: str) -> tuple[str, ...]:
    """Any one hierarchy has all of a container's processes; with the freezer's they can be thawed."""
    for mount in sorted(_hierarchies(), key=lambda mount: "freezer" not in mount.path):
        paths = container_cgroups((mount,))
        if found := tuple(path for path in paths if container_of(path.rpartition("/")[2]) == container_id):
            return found
    return ()


def _hierarchies() -> Iterator[MountPoint]:
    return (mount for mount in mounts() if mount.file_system in ("cgroup", "cgroup2"))
