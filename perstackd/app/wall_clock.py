"""How long a job has been at work, by the event loop's clock."""

from typing import Final

import anyio

from perstackd.app.run_context import JobContext

LOOK_SECONDS: Final = 0.25


async def spent(limit_ms: int, context: JobContext) -> None:
    """Returns once the job has been at work for `limit_ms`, pauses and waits for people left out. What an earlier
    process did of it counts, up to the last event that it wrote.
    """
    used, before = context.log.worked_ms / 1000, anyio.current_time()
    while used < limit_ms / 1000:
        await anyio.sleep(min(LOOK_SECONDS, limit_ms / 1000 - used))
        now = anyio.current_time()
        if not context.log.record.paused and not context.standing.waiting:
            used += now - before
            context.log.worked_ms = round(used * 1000)
        before = now
