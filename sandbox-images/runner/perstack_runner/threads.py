"""Threads for what blocks: one of its own for a piece of work, or a few that are kept.

The sandbox's process limit counts threads, and what runs inside may use it up. A thread that is there already does not
need what is missing, so whatever must not fail then has one that was started in time.
"""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, TypeVar

T = TypeVar("T")
_Item = tuple["asyncio.Future[Any]", Callable[[], None]]


class Threads:
    """At most `most` threads, started when they are needed and kept, which share one queue."""

    def __init__(self, most: int, name: str) -> None:
        self._most: Final = most
        self._name: Final = name
        self._queue: SimpleQueue[_Item | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._open = 0
        self._started = 0
        self._closed = False

    def prepare(self) -> None:
        """Start the first thread if there is none. Raises BlockingIOError when the process limit is reached."""
        if self._started == 0:
            self._add()

    async def run(self, work: Callable[[], T]) -> T:
        """The outcome of `work`, on one of the threads. Cancelled before its turn came, it never runs.

        Raises:
            BlockingIOError: the process limit is reached and no thread was started before; `work` did not run.
            CancelledError: also when close() came before its turn.
        """
        self._make_room()
        result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._open += 1
        self._queue.put((result, _settling(work, result)))
        return await result

    def close(self) -> None:
        """Let the threads end after what they do now, not waited for; what waits its turn is cancelled. Idempotent."""
        if not self._closed:
            self._closed = True
            for _ in range(self._started):
                self._queue.put(None)

    def _make_room(self) -> None:
        if self._closed:
            raise RuntimeError(f"the threads {self._name!r} were closed")
        with self._lock:
            busy = self._open >= self._started
        if busy and self._started < self._most:
            with suppress(BlockingIOError):
                self._add()
        if self._started == 0:
            raise _limit_reached()

    def _add(self) -> None:
        _start(self._serve, self._name)
        self._started += 1

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            result, body = item
            if self._closed:
                with suppress(RuntimeError):  # the loop has ended
                    result.get_loop().call_soon_threadsafe(result.cancel)
            elif not result.cancelled():
                body()
            with self._lock:
                self._open -= 1


async def run_apart(work: Callable[[], T]) -> T:
    """Run `work` on a thread of its own: others could all be busy, and a Landlock domain ends with its thread.

    Raises:
        BlockingIOError: the process limit is reached; `work` did not run.
    """
    result: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    _start(_settling(work, result), "apart")
    return await result


def _start(body: Callable[[], None], name: str) -> None:
    try:
        threading.Thread(target=body, name=name, daemon=True).start()
    except RuntimeError:  # "can't start new thread": all that threading tells of EAGAIN
        raise _limit_reached() from None


def _limit_reached() -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _settling(work: Callable[[], Any], result: "asyncio.Future[Any]") -> Callable[[], None]:
    """What a thread does: the work, and its outcome into the loop's future."""
    loop = result.get_loop()

    def settle(outcome: Any, error: BaseException | None) -> None:
        if result.cancelled():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(outcome)

    def body() -> None:
        try:
            outcome, error = work(), None
        except BaseException as raised:
            outcome, error = None, raised
        with suppress(RuntimeError):  # the loop has ended, so has whoever waited
            loop.call_soon_threadsafe(settle, outcome, error)

    return body
