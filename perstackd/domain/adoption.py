"""Which sandboxes of an earlier daemon may be adopted or given back to their runs, and what a pool is once they are.
Pure.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from perstackd.domain.ids import SandboxId
from perstackd.domain.pool import PoolState, Seat, Stage
from perstackd.domain.sandbox import SandboxRecord, SandboxState, Template


def unclaimed(row: SandboxRecord) -> bool:
    """Whether the row says idle and never claimed, and tells which runner is the right one."""
    claimed = row.job_id or row.run_id or row.tenant or row.claimed_at
    return row.state is SandboxState.IDLE and not claimed and bool(row.session_token_hash)


def eligible(
    rows: Iterable[SandboxRecord], templates: Mapping[str, Template], uids: range, used: Iterable[int] = ()
) -> tuple[SandboxRecord, ...]:
    """Unclaimed ones of a template that is configured, with a uid in `uids` that no other has and that is not `used`,
    at most `max` of each template. Oldest first.
    """
    taken = set(used)
    room = {name: template.max for name, template in templates.items()}
    found: list[SandboxRecord] = []
    for row in sorted(filter(unclaimed, rows), key=lambda row: row.id):
        if row.uid in uids and row.uid not in taken and room.get(row.template, 0) > 0:
            taken.add(row.uid)
            room[row.template] -= 1
            found.append(row)
    return tuple(found)


def returnable(
    rows: Iterable[SandboxRecord], templates: Mapping[str, Template], uids: range
) -> tuple[SandboxRecord, ...]:
    """Claimed ones of a run, of a template that is configured, with a uid in `uids` that no other has. Oldest first.

    Whether their runs go on, and in them, is not for the pool to say.
    """
    taken: set[int] = set()
    found: list[SandboxRecord] = []
    for row in sorted(rows, key=lambda row: row.id):
        claimed = row.state is SandboxState.CLAIMED and row.job_id and row.run_id and row.session_token_hash
        if claimed and row.template in templates and row.uid in uids and row.uid not in taken:
            taken.add(row.uid)
            found.append(row)
    return tuple(found)


def taken_back(state: PoolState, sandbox_id: SandboxId, now: float) -> PoolState:
    """A sandbox of an earlier daemon is a run's. Not counted as a claim: nobody waited for it."""
    return replace(state, seats=(*state.seats, Seat(sandbox_id, Stage.CLAIMED, now)))


def found(state: PoolState, sandbox_id: SandboxId, now: float) -> PoolState:
    """A sandbox of an earlier daemon is being verified again. Not counted as a start."""
    return replace(state, seats=(*state.seats, Seat(sandbox_id, Stage.STARTING, now)))


def adopted(state: PoolState, sandbox_id: SandboxId, now: float) -> PoolState:
    """It is as it should be, and a workspace can be attached to it: the sandbox is idle."""
    seats = (
        replace(seat, stage=Stage.IDLE, since=now) if seat.sandbox_id == sandbox_id else seat for seat in state.seats
    )
    return replace(state, seats=tuple(seats), proven=True)
