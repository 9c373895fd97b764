"""How long jobs are kept: deleted when asked for, or once they are old enough; and what only they needed with them.

An async context manager that owns the daily sweep; leaving it ends the sweep where it is, which loses nothing.
"""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import anyio
import structlog
from anyio.abc import TaskGroup

from perstackd.app.unforeseen import unforeseen
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import JobId, TenantId, earliest_id, is_id
from perstackd.domain.job import JobState
from perstackd.ports.clock import Clock
from perstackd.ports.event_store import Store

MAX_DELETED: Final = 1000
DAY_S: Final = 86_400.0
DAY_MS: Final = 86_400_000
FIRST_SWEEP_S: Final = 60.0  # the start of the daemon goes first
MARGIN_MS: Final = 600_000
"""A blob that was put within it may belong to a job that is just being made."""
_PAGE: Final = 200
_ENDED: Final = tuple(state for state in JobState if state.final)
_GOING_ON: Final = tuple(state for state in JobState if not state.final)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep did: jobs deleted, bytes of blobs, bytes given back to the file system."""

    jobs: int
    blob_bytes: int
    file_bytes: int


class Retention:
    """`keep_days` 0 means for ever. `oldest_live` is when the oldest job that goes on was created, in milliseconds
    since the epoch; None when none does. `writing` is held while a log is made of parts of another.
    """

    def __init__(
        self, store: Store, clock: Clock, *, keep_days: int, oldest_live: Callable[[], int | None], writing: anyio.Lock
    ) -> None:
        self._store = store
        self._clock = clock
        self._keep_days = keep_days
        self._oldest_live = oldest_live
        self._writing = writing
        self._tasks: TaskGroup = anyio.create_task_group()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._tasks)
        self._tasks.start_soon(self._daily)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        return await self._stack.__aexit__(kind, error, trace)

    async def delete(self, job_ids: Sequence[JobId]) -> tuple[JobId, ...]:
        """Delete ended jobs, one after the other; returns those that were there. One that goes on stops it: those
        before it are deleted by then.

        Raises:
            PerstackError: INVALID `too_many_ids`; NOT_FOUND `job_not_found`; PRECONDITION `job_not_ended`,
                `job_replayed` while another does it again.
        """
        if len(job_ids) > MAX_DELETED:
            message = f"{len(job_ids)} ids are more than {MAX_DELETED}; delete the jobs in several calls"
            raise PerstackError(Kind.INVALID, "too_many_ids", message)
        deleted: list[JobId] = []
        for job_id in dict.fromkeys(job_ids):
            if not is_id(job_id) or not await self._delete(job_id):
                message = f"there is no job {job_id[:64]!r}; {len(deleted)} jobs before it were deleted"
                raise PerstackError(Kind.NOT_FOUND, "job_not_found", message)
            deleted.append(job_id)
        return tuple(deleted)

    async def erase(self, tenant: TenantId) -> tuple[int, int]:
        """Delete all ended jobs of a tenant; returns how many, and how many go on and were left. Raises PerstackError
        PRECONDITION `job_replayed`, with those before it deleted.
        """
        deleted = 0
        while page := await self._store.jobs.page(tenant, _ENDED, None, _PAGE):
            for record in page:
                deleted += await self._delete(record.id)
        await self._store.housekeeping.compact()
        return deleted, await self._unfinished(tenant)

    async def sweep(self) -> Swept:
        """Delete the jobs that are old enough, the blobs that no job needs, and give the room back."""
        deleted = await self._delete_old() if self._keep_days else 0
        async with self._writing:
            blobs = await self._store.housekeeping.sweep(self._put_before())
        return Swept(deleted, blobs, await self._store.housekeeping.compact())

    async def _delete_old(self) -> int:
        """Those that ended before the limit. A job that was created after it did not, so that the younger ones are not
        looked at.
        """
        limit = self._clock.now_ms() - self._keep_days * DAY_MS
        before, deleted = JobId(earliest_id(max(limit, 0))), 0
        while page := await self._store.jobs.page(None, _ENDED, before, _PAGE):
            for record in page:
                if record.finished_at < limit and not await self._replayed_by(record.id):
                    deleted += await self._delete(record.id)
            before = page[-1].id
        return deleted

    async def _delete(self, job_id: JobId) -> bool:
        async with self._writing:
            if again := await self._replayed_by(job_id):
                message = f"job {again} does job {job_id} again and needs its log; wait for its end, or cancel it"
                raise PerstackError(Kind.PRECONDITION, "job_replayed", message, fields={"job_id": again})
            return await self._store.housekeeping.delete(job_id, self._put_before())

    async def _replayed_by(self, job_id: JobId) -> JobId | None:
        """A job that goes on and reads the other's log, and refers to its blobs bit by bit."""
        before: JobId | None = None
        while page := await self._store.jobs.page(None, _GOING_ON, before, _PAGE):
            found = (record.id for record in page if record.replay and record.parent_job_id == job_id)
            if (again := next(found, None)) is not None:
                return again
            before = page[-1].id
        return None

    def _put_before(self) -> int:
        """Blobs that a live job, or one that is being made, may have put stay, also where the clock was set back."""
        margin, oldest = self._clock.now_ms() - MARGIN_MS, self._oldest_live()
        return margin if oldest is None else min(margin, oldest - MARGIN_MS)

    async def _unfinished(self, tenant: TenantId) -> int:
        count, before = 0, None
        while page := await self._store.jobs.page(tenant, _GOING_ON, before, _PAGE):
            count, before = count + len(page), page[-1].id
        return count

    async def _daily(self) -> None:
        await anyio.sleep(FIRST_SWEEP_S)
        while True:
            try:
                swept = await self.sweep()
                _log.info("swept", jobs=swept.jobs, blob_bytes=swept.blob_bytes, file_bytes=swept.file_bytes)
            except PerstackError as error:
                _log.warning("the daily sweep failed; it is tried again tomorrow", reason=error.message)
            except Exception as error:
                unforeseen(self._clock, error)
            await anyio.sleep(DAY_S)
