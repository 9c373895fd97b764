"""The calls of one turn: in parallel, with a bound, stopped when the daemon says so; results in the turn's order."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from perstack_runner.log import log
from perstack_runner.messages import Call, Result, Turn
from perstack_runner.results import failed

MAX_PARALLEL: Final = 32

Run = Callable[[Call], Awaitable[Result]]


class RunningCalls:
    """What is at work of a turn. `run` makes a result of a call, `seconds` says how long it may take."""

    def __init__(self, run: Run, seconds: Callable[[Call], float]) -> None:
        self._run = run
        self._seconds = seconds
        self._room = asyncio.Semaphore(MAX_PARALLEL)
        self._open: frozenset[str] = frozenset()
        self._scopes: dict[str, asyncio.Timeout] = {}
        self._cancelled: set[str] = set()

    def begin(self, turn: Turn) -> None:
        """Take the turn: from now on its calls can be cancelled."""
        self._open = frozenset(call.call_id for call in turn.calls)
        self._cancelled.clear()

    async def results(self, turn: Turn) -> tuple[Result, ...]:
        """One result for each call, in order; never raises for a call's sake."""
        async with asyncio.TaskGroup() as together:
            tasks = [together.create_task(self._bounded(call)) for call in turn.calls]
        return tuple(task.result() for task in tasks)

    def cancel(self, call_ids: tuple[str, ...]) -> None:
        """Stop these calls, or all; they end with an error result. Unknown ids are nothing."""
        loop = asyncio.get_running_loop()
        for call_id in (self._open & set(call_ids) if call_ids else self._open) - self._cancelled:
            self._cancelled.add(call_id)
            if call_id in self._scopes:
                with suppress(RuntimeError):  # its time was up already
                    self._scopes[call_id].reschedule(loop.time())

    async def _bounded(self, call: Call) -> Result:
        started = time.monotonic()
        seconds = self._seconds(call)
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scopes[call.call_id] = scope
                async with self._room:
                    now = asyncio.get_running_loop().time()
                    scope.reschedule(now if call.call_id in self._cancelled else now + seconds)
                    result = await self._run(call)
        except TimeoutError:
            result = self._stopped(call, seconds)
        except Exception as error:
            log(f"a call failed in the runner itself: {type(error).__name__}")
            result = failed(call.call_id, "internal", "the runner could not run this call; try it in another way")
        finally:
            self._scopes.pop(call.call_id, None)
        return result._replace(duration_ms=round((time.monotonic() - started) * 1000))

    def _stopped(self, call: Call, seconds: float) -> Result:
        if call.call_id in self._cancelled:
            return failed(call.call_id, "cancelled", "the call was cancelled before it ended")
        return failed(call.call_id, "timeout", f"no result in {seconds:.0f} s; it may or may not have taken effect")
