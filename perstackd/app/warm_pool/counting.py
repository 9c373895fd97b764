"""A look each second at what the kernel counts of claimed sandboxes, so that the cause of an end is known where the
container is gone by then, or its engine does not answer.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import structlog

from perstackd.app.warm_pool.premises import Premises
from perstackd.app.warm_pool.unforeseen import place_of
from perstackd.app.warm_pool.wiring import bounded
from perstackd.domain.counters import Counters, Look, looked, risen
from perstackd.domain.errors import PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import SandboxRecord, SandboxState

PERIOD_S: Final = 1.0
_SECONDS: Final = 2.0
_log = structlog.get_logger()


class Counting:
    """Without the port nothing is counted, and nothing is proven. What a sandbox counted is kept until it is gone."""

    def __init__(self, premises: Premises) -> None:
        self._ports = premises.ports
        self._roster = premises.roster
        self._looks: dict[SandboxId, tuple[Look, ...]] = {}
        self._failing = False

    async def go(self) -> None:
        """Go on until cancelled."""
        while True:
            await self._look(self._claimed())
            self._looks = {each: looks for each, looks in self._looks.items() if each in self._roster.members}
            await self._ports.sleep(PERIOD_S)

    async def recent(self, record: SandboxRecord) -> Counters:
        """What was counted in the last seconds of a sandbox, this moment included where its cgroup is still there; one
        without a cgroup has ended.
        """
        found = await self._look({record.container_id: record.id} if record.container_id else {})
        counted = risen(self._looks.get(record.id, ()))
        return replace(counted, ended=counted.ended or (found is not None and record.container_id not in found))

    def _claimed(self) -> dict[str, SandboxId]:
        records = (member.record for member in self._roster.members.values())
        return {each.container_id: each.id for each in records if each.container_id and _is_claimed(each)}

    async def _look(self, sandboxes: Mapping[str, SandboxId]) -> Mapping[str, Counters] | None:
        """What was found, None when it could not be looked for."""
        if self._ports.counters is None or not sandboxes:
            return None
        try:
            call = self._ports.counters.read(tuple(sandboxes))
            found = await bounded("reading the counters of sandboxes", _SECONDS, call)
        except (PerstackError, OSError, ValueError) as error:
            if not self._failing:  # once, not each second
                _log.warning("counters of sandboxes cannot be read", error=place_of(error))
            self._failing = True
            return None
        self._failing, now = False, self._ports.clock.monotonic()
        for container_id, counters in found.items():
            sandbox_id = sandboxes[container_id]
            self._looks[sandbox_id] = looked(self._looks.get(sandbox_id, ()), Look(now, counters))
        return found


def _is_claimed(record: SandboxRecord) -> bool:
    return record.state is SandboxState.CLAIMED
