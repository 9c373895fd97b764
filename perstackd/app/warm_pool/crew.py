"""Tasks with an owner: a TaskGroup that can also be told to stop.

An unexpected exception in one ends the pool loudly, as in any TaskGroup; expected failures are theirs to handle.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType


class Crew:
    """The pool's background tasks. Once stopped, it takes no more."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = True

    async def __aenter__(self) -> "Crew":
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
        if isinstance(error, asyncio.CancelledError):
            await self._group.__aexit__(kind, error, trace)
        else:  # the body's own error passes as it is, not in a group
            await self._group.__aexit__(None, None, None)

    def run(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Begin `work`; dropped when the crew was stopped, so the caller's shutdown must not depend on it."""
        if self._open:
            task = self._group.create_task(self._guard(work), name=name)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Cancel every task and wait until each has ended. Idempotent."""
        self._open = False
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception:
            self._open = False
            raise
