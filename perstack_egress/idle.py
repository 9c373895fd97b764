"""The bound on silence: a block ends when nothing has moved in it for so long."""

import asyncio
from types import TracebackType
from typing import Self


class Idle:
    """`async with Idle(seconds) as idle:`, and `idle.moved()` for whatever moves. Raises TimeoutError at the end."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._moved_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._bound = asyncio.timeout(seconds)

    async def __aenter__(self) -> Self:
        self._moved_at = self._loop.time()
        await self._bound.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._bound.__aexit__(kind, error, trace)

    def moved(self) -> None:
        """Put the end off, at most ten times in its length: each time costs a timer."""
        now = self._loop.time()
        if now - self._moved_at > self._seconds / 10 and not self._bound.expired():
            self._moved_at = now
            self._bound.reschedule(now + self._seconds)
