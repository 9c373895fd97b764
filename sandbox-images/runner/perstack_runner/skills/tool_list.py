"""A server's tool list again, when the server says that it changed: news for the daemon, nothing for the run."""

import asyncio
from collections.abc import Callable
from typing import Final

from perstack_runner.messages import SkillOrder, ToolSpec
from perstack_runner.skills.failure import reason
from perstack_runner.skills.server import Server, listed

MAX_LISTINGS: Final = 20
EVERY_SECONDS: Final = 1.0


class ToolList:
    """Of one skill: asked for again at most once a second, and 20 times in a run. `changed` is set by the server."""

    def __init__(self, order: SkillOrder, changed: asyncio.Event, seconds: float) -> None:
        self._order = order
        self._changed = changed
        self._seconds = seconds
        self._listings = 0

    async def watch(
        self, server: Server, report: Callable[[tuple[ToolSpec, ...]], None], complain: Callable[[str], None]
    ) -> None:
        """Report each list that differs from the last. Runs until it is cancelled, or has asked often enough."""
        known = server.tools
        while self._listings < MAX_LISTINGS:
            await self._changed.wait()
            await asyncio.sleep(EVERY_SECONDS)
            self._changed.clear()
            self._listings += 1
            try:
                async with asyncio.timeout(self._seconds):
                    tools = await listed(server.session, self._order)
            except Exception as error:
                complain(f"[runner] its tools changed, and the new list cannot be used: {reason(error)}")
                continue
            if tools != known:
                known = tools
                report(tools)
