"""What sandboxes leave on a host, in memory."""

from collections.abc import Collection
from dataclasses import replace

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.traces import Leftover, Snapshot


class FakeTraces:
    """Passes tests/contracts/test_traces.py. `there` is what there is. Containers in `known` are the engine's, those in
    `stuck` resist, and while `broken` nobody can look.
    """

    def __init__(self, runtime: str) -> None:
        self.there = Snapshot(runtime)
        self.known: set[str] = set()
        self.stuck: set[str] = set()
        self.removed: list[Leftover] = []
        self.broken = False

    def note(self, container_id: str, sandbox_id: SandboxId) -> None:
        """As the engine's adapter does before each start."""
        self.there = replace(self.there, noted={**self.there.noted, container_id: sandbox_id})

    async def look(self) -> Snapshot:
        if self.broken:
            raise OSError(5, "told to break by the test")
        return self.there

    async def remove(self, leftover: Leftover) -> None:
        container, fields = leftover.container_id, {"sandbox_id": leftover.sandbox_id}
        if container in self.known:
            raise PerstackError(Kind.CONFLICT, "container_known", f"the engine knows {container}", fields=fields)
        if container in self.stuck:
            raise PerstackError(Kind.UNAVAILABLE, "traces_left", "told to stick", fields=fields, retryable=True)
        there = self.there
        self.there = replace(
            there,
            shims=tuple(each for each in there.shims if each not in leftover.shims),
            cgroups=tuple(each for each in there.cgroups if each not in leftover.cgroups),
            mounts=tuple(each for each in there.mounts if each not in leftover.mounts),
            sockets=tuple(each for each in there.sockets if each not in leftover.sockets),
        )
        self.removed.append(leftover)

    async def forget(self, container_ids: Collection[str]) -> None:
        noted = {cid: sid for cid, sid in self.there.noted.items() if cid not in container_ids}
        self.there = replace(self.there, noted=noted)
