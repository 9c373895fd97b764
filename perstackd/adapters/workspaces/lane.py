"""A thread for blocking calls of one sort: in order, one at a time, each wait bounded."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import structlog

from perstackd.domain.errors import Kind, PerstackError

T = TypeVar("T")
_log = structlog.get_logger(__name__)


class Lane:
    """Runs functions in its own thread, in the order of the calls. A stuck one delays only this lane."""

    def __init__(self, name: str, limit: float) -> None:
        self._name = name
        self._limit = limit
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, work: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """The result of `work`. It is carried out even when the caller leaves; `undo` then gets it, in the lane.

        Raises:
            PerstackError: TIMEOUT `workspace_stuck` after `limit` seconds, and whatever `work` raises.
        """
        future = self._executor.submit(work)
        limit = asyncio.timeout(self._limit)
        try:
            async with limit:
                return await asyncio.shield(asyncio.wrap_future(future))
        except (TimeoutError, asyncio.CancelledError) as error:
            timed_out = limit.expired()
            if isinstance(error, TimeoutError) and not timed_out:
                raise  # ETIMEDOUT of the work itself
            if undo is not None:
                self.later(partial(_undo, future, undo))
            if not timed_out:
                raise
            raise PerstackError(
                Kind.TIMEOUT,
                "workspace_stuck",
                f"a file system did not answer {self._name} in {self._limit:g} s; see whether a network mount hangs",
                retryable=True,
            ) from error

    def later(self, work: Callable[[], object]) -> None:
        """Do `work` after all that was asked before, without a waiter; a failure is logged."""
        self._executor.submit(_logged, work)

    def shutdown(self) -> None:
        """Take no more work and wait for what has begun; blocks. Idempotent."""
        self._executor.shutdown(cancel_futures=True)


def _undo(done: Future[T], undo: Callable[[T], object]) -> None:
    """Runs after `done`, which is in the same lane."""
    if not done.cancelled() and done.exception() is None:
        undo(done.result())


def _logged(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception:
        _log.exception("workspace_clean_up_failed")
