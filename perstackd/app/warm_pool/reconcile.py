"""Compare what there is with what is known: containers, rows, directories and traces of ours that are nobody's."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from perstackd.app.warm_pool.premises import Premises
from perstackd.app.warm_pool.roster import Member
from perstackd.app.warm_pool.traces import TraceSurvey
from perstackd.app.warm_pool.wiring import bounded
from perstackd.domain.ids import SandboxId, is_id
from perstackd.domain.sandbox import SandboxRecord
from perstackd.domain.traces import Leftover


@dataclass(frozen=True, slots=True)
class Findings:
    """`orphans` are to be removed, with the uid when a row told it; `dead` are idle members without a container.

    `rows` are those of orphans that have a container too, by id. `traces` are to be removed as well: of orphans, and of
    sandboxes of which there is nothing else.
    """

    orphans: dict[SandboxId, int | None]
    dead: tuple[Member, ...]
    rows: tuple[SandboxRecord, ...] = ()
    traces: Mapping[SandboxId, tuple[Leftover, ...]] = field(default_factory=dict)


class Survey:
    """Looks; the keeper acts."""

    def __init__(self, premises: Premises) -> None:
        self._ports = premises.ports
        self._limits = premises.limits
        self._files = premises.files
        self._roster = premises.roster
        self._traces = TraceSurvey(premises.ports, premises.limits.step_seconds)

    @property
    def again_soon(self) -> bool:
        """Whether the next look should not wait for its turn."""
        return self._traces.again_soon

    async def look(self) -> Findings:
        """What is wrong now. A sandbox known before or after the look is nobody's orphan: it came or went meanwhile.

        Raises:
            PerstackError: The engine or the store did not answer.
            OSError: The runtime directory cannot be read.
        """
        before, idle = self._roster.known(), tuple(self._roster.idle())
        seconds = self._limits.step_seconds
        snapshot = await self._traces.look()
        containers = await bounded("listing containers", seconds, self._ports.sandboxes.ours())
        rows = {record.id: record for record in await bounded("listing rows", seconds, self._ports.rows.all())}
        directories = await bounded("listing directories", seconds, self._files.ids())
        known = before | self._roster.known()
        found = {sandbox_id for sandbox_id in (*containers, *directories, *rows) if is_id(sandbox_id)}
        orphans = {
            sandbox_id: rows[sandbox_id].uid if sandbox_id in rows else None for sandbox_id in sorted(found - known)
        }
        dead = tuple(member for member in idle if member.id not in containers)
        traces = await self._traces.judge(snapshot, known, frozenset(containers), orphans.keys())
        return Findings(
            orphans, dead, tuple(rows[each] for each in orphans if each in containers and each in rows), traces
        )
