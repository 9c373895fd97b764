"""Points where a test holds up what a fake does."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest


class Gate:
    """Holds up every call of `target.name` until it is opened; with `error` the call fails then. Once per test."""

    def __init__(self, patch: pytest.MonkeyPatch, target: object, name: str, error: Exception | None = None) -> None:
        self.reached = anyio.Event()
        self.error = error
        self._open = anyio.Event()
        self._real: Callable[..., Awaitable[Any]] = getattr(target, name)
        patch.setattr(target, name, self._held)

    def open(self) -> None:
        self._open.set()

    async def wait(self) -> None:
        """Until somebody is held up."""
        with anyio.fail_after(5):
            await self.reached.wait()

    async def _held(self, *arguments: Any, **named: Any) -> Any:
        self.reached.set()
        await self._open.wait()
        if self.error is not None:
            raise self.error
        return await self._real(*arguments, **named)
