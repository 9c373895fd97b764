"""What is left of sandboxes beside containers, rows and directories: looked at with them, each round."""

from collections.abc import Mapping, Set

import structlog

from perstackd.app.warm_pool.unforeseen import place_of
from perstackd.app.warm_pool.wiring import PoolPorts, bounded
from perstackd.domain.errors import PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.traces import Leftover, Snapshot, leftovers

_log = structlog.get_logger()


class TraceSurvey:
    """`look` first, then ask the engine what it knows, then `judge`: whatever is begun meanwhile is in the answer.

    A container that has just ended is given until the next look, which then comes soon: its engine may be clearing up.
    """

    def __init__(self, ports: PoolPorts, seconds: float) -> None:
        self._traces = ports.traces
        self._seconds = seconds
        self._ended: frozenset[str] = frozenset()
        self.again_soon = False
        """Whether something was found of a container that has just ended."""

    async def look(self) -> Snapshot | None:
        """What there is; None when nobody can tell, which stops nothing else."""
        if self._traces is None:
            return None
        try:
            return await bounded("looking for shims, cgroups and mounts", self._seconds, self._traces.look())
        except (PerstackError, OSError) as error:
            _log.warning("shims, cgroups and mounts are not looked at", why=str(error))
        except Exception as error:
            _log.error("looking for traces failed in an unforeseen way", error=place_of(error))
        return None

    async def judge(
        self, snapshot: Snapshot | None, known: Set[SandboxId], contained: Set[SandboxId], orphans: Set[SandboxId]
    ) -> Mapping[SandboxId, tuple[Leftover, ...]]:
        """What is to be removed now, by sandbox: of `orphans`, which are about to be removed, at once."""
        self.again_soon = False
        if snapshot is None:
            return {}
        found = leftovers(snapshot, known, contained)
        before, self._ended = self._ended, frozenset(each.container_id for each in found if each.container_id)
        due: dict[SandboxId, tuple[Leftover, ...]] = {}
        for each in found:
            if each.sandbox_id in orphans or not each.container_id or each.container_id in before:
                due[each.sandbox_id] = (*due.get(each.sandbox_id, ()), each)
            elif not each.empty:
                self.again_soon = True
        await self._forget([each.container_id for parts in due.values() for each in parts if each.empty])
        left = {sandbox_id: tuple(each for each in parts if not each.empty) for sandbox_id, parts in due.items()}
        return {sandbox_id: parts for sandbox_id, parts in left.items() if parts}

    async def _forget(self, container_ids: list[str]) -> None:
        if self._traces is None or not container_ids:
            return
        try:
            await bounded("forgetting containers", self._seconds, self._traces.forget(container_ids))
        except (PerstackError, OSError) as error:
            _log.warning("containers that are gone are still noted", why=str(error))
