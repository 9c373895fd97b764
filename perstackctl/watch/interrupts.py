"""Ctrl-C while a job is run: the first asks for its cancellation, the second leaves at once.

Handled by the process and not by the event loop, so that a write to a pipe that nobody reads cannot hold it back.
"""

import asyncio
import signal
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupts:
    """`with Interrupts() as interrupts:` inside a running loop, in the main thread.

    Until `arm` is called the first Ctrl-C raises KeyboardInterrupt: there is no job to cancel yet.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Event()
        self._armed = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def arm(self) -> None:
        """From now on the first Ctrl-C is a wish, not an end."""
        self._armed = True

    async def wait(self) -> None:
        """Return when the first Ctrl-C came."""
        await self._asked.wait()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if not self._armed:
            raise KeyboardInterrupt
        self._armed = False
        self._loop.call_soon_threadsafe(self._asked.set)
