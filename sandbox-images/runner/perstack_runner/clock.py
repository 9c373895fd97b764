"""A bound of time that stands still while a person is waited for."""

import asyncio
from types import TracebackType
from typing import Final

LONGEST_HOLD_SECONDS: Final = 7 * 24 * 3600.0
"""How long a clock stands still in all; past that it runs on, held or not."""


class Clock:
    """`async with` it, then start(): what runs inside ends with TimeoutError when the seconds are used up.

    hold() makes it stand still until release() was called as often, also before start().
    """

    def __init__(self) -> None:
        self._scope = asyncio.timeout(None)
        self._holds = 0
        self._left: float | None = None
        self._hold_left = LONGEST_HOLD_SECONDS
        self._since = 0.0

    async def __aenter__(self) -> "Clock":
        await self._scope.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._scope.__aexit__(kind, error, trace)

    def start(self, seconds: float) -> None:
        """Run, once it is not held."""
        self._left = seconds
        self._set()

    def hold(self) -> None:
        """Stand still."""
        self._holds += 1
        if self._holds == 1 and self._left is not None:
            self._left = max(0.0, self._left - (self._now() - self._since))
            self._set()

    def release(self) -> None:
        """Run on, when everyone who held it has released it."""
        self._holds -= 1
        if self._holds == 0 and self._left is not None:
            stood = self._now() - self._since
            self._left -= max(0.0, stood - self._hold_left)
            self._hold_left = max(0.0, self._hold_left - stood)
            self._set()

    def _set(self) -> None:
        self._since = self._now()
        if self._left is None or self._scope.expired():
            return
        still = self._hold_left if self._holds else 0.0
        self._scope.reschedule(self._since + still + self._left)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
