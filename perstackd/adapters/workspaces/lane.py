"""A thread for blocking calls of one sort: in order, one at a time, each wait bounded."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from perstackd.domain.errors import Kind, PerstackError

T = TypeVar("T")


class Lane:
    """Runs functions in its own thread, in the order of the calls. A stuck one delays only this lane."""

    def __init__(self, name: str, limit: float) -> None:
        self._name = name
        self._limit = limit
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, work: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """The result of `work`. A call that has begun goes on when the caller leaves; `undo` then gets its result.

        Raises:
            PerstackError: TIMEOUT `workspace_stuck` after `limit` seconds, and whatever `work` raises.
        """
        future = self._executor.submit(work)
        try:
            async with asyncio.timeout(self._limit) as waiting:
                return await asyncio.wrap_future(future)
        except (TimeoutError, asyncio.CancelledError) as error:
            if undo is not None:
                future.add_done_callback(lambda done: _undone(done, undo))
            if not waiting.expired():
                raise
            raise PerstackError(
                Kind.TIMEOUT,
                "workspace_stuck",
                f"a file system did not answer {self._name} in {self._limit:g} s; see whether a network mount hangs",
                retryable=True,
            ) from error

    def shutdown(self) -> None:
        """Take no more work and wait for what has begun; blocks."""
        self._executor.shutdown(cancel_futures=True)


def _undone(done: Future[T], undo: Callable[[T], object]) -> None:
    if not done.cancelled() and done.exception() is None:
        undo(done.result())
