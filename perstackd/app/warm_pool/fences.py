"""Fences: a sandbox of a run that has gone on elsewhere must do nothing any more, whatever becomes of its container.

Its link, its way out and its claim are refused where they arrive. What it has open of the workspace nobody can refuse:
a mount that is taken away lives on in a process that works there. So its processes end before the run goes on, and
before the job ends; the engine, which may be away, is not asked.
"""

from perstackd.app.warm_pool.premises import Premises
from perstackd.app.warm_pool.returning import Returns
from perstackd.app.warm_pool.wiring import bounded
from perstackd.domain.ids import RunId
from perstackd.domain.sandbox import SandboxRecord


class Fences:
    """Of all runs. Without the port nothing is ended here, and removal alone ends what runs."""

    def __init__(self, premises: Premises, returns: Returns) -> None:
        self._ports = premises.ports
        self._limits = premises.limits
        self._roster = premises.roster
        self._returns = returns

    async def raised(self, run_id: RunId, fence: int) -> None:
        """Nothing runs on return in sandboxes of the run with a lower fence, those of an earlier daemon included.

        Raises:
            PerstackError: UNAVAILABLE `sandbox_unstoppable`; TIMEOUT `pool_step_timeout`. The run must not go on.
        """
        records = {row.id: row for row in self._returns.claimed}
        records.update({member.id: member.record for member in self._roster.members.values()})
        for record in records.values():
            if record.run_id == run_id and record.fence < fence:
                await self.halt(record)

    async def halt(self, record: SandboxRecord) -> None:
        """Nothing runs in the sandbox on return. Raises as `raised`."""
        if self._ports.halts is not None and record.container_id:
            call = self._ports.halts.halt(record.container_id)
            await bounded("ending what runs in a sandbox", self._limits.end_seconds * 2, call)
