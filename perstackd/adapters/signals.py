"""Signals that ask the daemon to end."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # a terminal that closes must not leave sandboxes


class StoppedWhileStartingError(Exception):
    """A signal came before the daemon served; what had started is gone again."""


class Signals:
    """Counts the signals that ask the daemon to end."""

    def __init__(self) -> None:
        self._events = (asyncio.Event(), asyncio.Event())
        self._start: asyncio.Timeout | None = None
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._count)

    def _count(self) -> None:
        first, second = self._events
        if self._start is not None and not first.is_set():
            self._start.reschedule(asyncio.get_running_loop().time())
        (second if first.is_set() else first).set()

    @asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """The first signal cancels the body, once, so that it can clean up. Raises StoppedWhileStartingError."""
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(now if self._events[0].is_set() else None) as self._start:
                yield
        except TimeoutError as error:
            if self._start is not None and self._start.expired():
                raise StoppedWhileStartingError from error
            raise
        finally:
            self._start = None

    async def first(self) -> None:
        """Wait for one."""
        await self._events[0].wait()

    async def second(self) -> None:
        """Wait for another one."""
        await self._events[1].wait()
