"""How long a job has been at work, by the event loop's clock."""

from typing import Final

import anyio

from perstackd.app.run_context import JobContext

LOOK_SECONDS: Final = 0.25


async def spent(limit_ms: int, context: JobContext) -> None:
    """Returns once the job has been at work for `limit_ms`, pauses and waits for people left out."""
    used, before = 0.0, anyio.current_time()
    while used < limit_ms / 1000:
        await anyio.sleep(min(LOOK_SECONDS, limit_ms / 1000 - used))
        now = anyio.current_time()
        if not context.log.record.paused and not context.standing.waiting:
            used += now - before
        before = now
