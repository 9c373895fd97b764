"""Group commit: one thread, one transaction for all that waits, one sync of the disk for all of them.

A unit of work runs in a savepoint of its own, so that one that is refused takes nothing with it. When SQLite itself
fails (disk full, lock held) the whole batch is rolled back and each of its callers is told: SQLite may have ended the
transaction under all of them. Callers hear of success after the commit only.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from perstackd.adapters.store.failures import closed, of_sqlite, unavailable

T = TypeVar("T")
Unit = Callable[[sqlite3.Connection], T]

BATCH_UNITS: Final = 256
CLOSE_SECONDS: Final = 30.0

# Faults of one unit's values; other faults are the database's and end the batch.
_OF_THE_UNIT: Final = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


@dataclass(slots=True)
class _Request:
    unit: Unit[Any]
    future: asyncio.Future[Any]
    result: object = None
    error: BaseException | None = None


class Writer:
    """Owns the writing connection's thread, from `__init__` to `close`. Methods belong to one event loop."""

    def __init__(self, connection: sqlite3.Connection, path: Path, queue_units: int) -> None:
        self._connection = connection
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Request | None] = SimpleQueue()
        self._places = asyncio.Semaphore(queue_units)
        self._closing = False
        self._taken = 0
        self._thread = threading.Thread(target=self._work, name="perstack-store-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Units that were taken and not settled yet."""
        return self._taken

    async def run(self, unit: Unit[T]) -> T:
        """Run `unit` in the writer's thread; its changes are durable on return. Units run in the order of the calls.

        Waits while the queue is full. A caller that is cancelled while it waits does not know whether the unit ran.

        Raises:
            PerstackError: what the unit raised; UNAVAILABLE `store_unavailable`, `store_closed`.
        """
        await self._places.acquire()  # given back by _settle, also when the caller is gone by then
        if self._closing:
            self._places.release()
            raise closed(self._path)
        self._taken += 1
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Request(unit, future))
        return await future

    async def close(self) -> None:
        """Commit what was taken, then end the thread. Idempotent. Raises `store_unavailable` when the disk hangs."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join, CLOSE_SECONDS)
        if self._thread.is_alive():
            raise unavailable(self._path, f"its writes did not end within {CLOSE_SECONDS:.0f} s: see the disk")

    def _settle(self, batch: list[_Request]) -> None:
        for request in batch:
            self._taken -= 1
            self._places.release()
            if request.future.done():  # its caller was cancelled
                continue
            if request.error is None:
                request.future.set_result(request.result)
            else:
                request.future.set_exception(request.error)

    # --- in the thread ----------------------------------------------------------------------------------------------
    def _work(self) -> None:
        last = False
        while not last:
            batch, last = self._batch()
            if batch:
                self._commit(batch)
                self._loop.call_soon_threadsafe(self._settle, batch)

    def _batch(self) -> tuple[list[_Request], bool]:
        batch: list[_Request] = []
        request = self._queue.get()
        while request is not None:
            batch.append(request)
            if len(batch) == BATCH_UNITS:
                return batch, False
            try:
                request = self._queue.get_nowait()
            except Empty:
                return batch, False
        return batch, True

    def _commit(self, batch: list[_Request]) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for request in batch:
                self._attempt(request)
            self._connection.execute("COMMIT")
        except Exception as error:
            # Whatever it is, every caller is told and the thread goes on.
            self._roll_back()
            for request in batch:
                request.error = self._told(error)

    def _attempt(self, request: _Request) -> None:
        self._connection.execute("SAVEPOINT unit")
        try:
            request.result = request.unit(self._connection)
        except Exception as error:
            if isinstance(error, sqlite3.Error) and not isinstance(error, _OF_THE_UNIT):
                raise
            request.error = self._told(error)
            self._connection.execute("ROLLBACK TO unit")
        self._connection.execute("RELEASE unit")

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            # The next BEGIN fails while the transaction is open, and tells its callers.
            return

    def _told(self, error: Exception) -> Exception:
        return of_sqlite(error, self._path) if isinstance(error, sqlite3.Error) else error
