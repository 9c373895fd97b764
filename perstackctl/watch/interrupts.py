"""Ctrl-C while a job is run: the first asks for its cancellation, the second leaves at once.

Handled by the process and not by the event loop, so that a write to a pipe that nobody reads cannot hold the second
one back.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self

LEFT: Final = 130


class Interrupts:
    """`with Interrupts() as interrupts:` inside a running loop, in the main thread.

    Until `arm` is called Ctrl-C means what it always means: there is no job to cancel yet.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Event()
        self._count = 0
        self._left = "left while a job was made; see it with perstackctl job ls"
        self._before: Any = None
        self._diverted: Callable[[], None] | None = None
        self._give_back: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        self._before = signal.getsignal(signal.SIGINT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def arm(self) -> None:
        """From now on the first Ctrl-C is a wish, not an end."""
        signal.signal(signal.SIGINT, self._on_signal)

    def name_job(self, job_id: str) -> None:
        """What is left behind by the second Ctrl-C."""
        self._left = f"left job {job_id}, which was asked to end; see its end with perstackctl job watch {job_id}"

    def before_leaving(self, give_back: Callable[[], None]) -> None:
        """What is called before the second Ctrl-C leaves; it must wait for nothing."""
        self._give_back = give_back

    async def wait(self) -> None:
        """Return when the first Ctrl-C came."""
        await self._asked.wait()

    def divert(self, to: Callable[[], None] | None) -> None:
        """Ctrl-C is for somebody else, who is told on the loop; None: it is for the job again."""
        self._diverted = to

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._diverted is not None:
            self._loop.call_soon_threadsafe(self._diverted)
            return
        self._count += 1
        if self._count > 1:
            self._leave()
        self._loop.call_soon_threadsafe(self._asked.set)

    def _leave(self) -> NoReturn:
        # No clean-up: nothing is kept here but the terminal, and whatever is waited for is what Ctrl-C shall end.
        if self._give_back is not None:
            self._give_back()
        os.write(sys.stderr.fileno(), f"\nperstackctl: {self._left}\n".encode())
        os._exit(LEFT)
