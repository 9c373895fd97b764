"""Reads: a few threads, each with a connection that cannot write. Each call sees all that was committed before it."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from perstackd.adapters.store.connections import open_reader
from perstackd.adapters.store.failures import closed, of_sqlite

T = TypeVar("T")


class Readers:
    """Owns the reading threads and connections, until `close`. Methods belong to one event loop."""

    def __init__(self, path: Path, threads: int, waiting: int, busy_timeout_ms: int) -> None:
        self._path = path
        self._busy_timeout_ms = busy_timeout_ms
        self._places = asyncio.Semaphore(waiting)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closing = False
        self._executor = ThreadPoolExecutor(threads, "perstack-store-reader")

    async def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """What `query` returns, run in a reading thread.

        Raises:
            PerstackError: what the query raised; UNAVAILABLE `store_unavailable`, `store_closed`;
                PRECONDITION `store_corrupt`.
        """
        async with self._places:
            if self._closing:
                raise closed(self._path)
            return await asyncio.get_running_loop().run_in_executor(self._executor, self._call, query)

    async def close(self) -> None:
        """Finish what was begun, then close. Idempotent."""
        self._closing = True
        await asyncio.to_thread(self._shut)

    def _call(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return query(self._connection())
        except sqlite3.Error as error:
            raise of_sqlite(error, self._path) from error

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = open_reader(self._path, self._busy_timeout_ms)
            self._connections.append(connection)
        return connection

    def _shut(self) -> None:
        self._executor.shutdown(wait=True)
        while self._connections:
            self._connections.pop().close()
