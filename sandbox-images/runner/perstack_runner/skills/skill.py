"""A skill of the run: its server started, started again when it died and is called, stopped at the end.

run() is the owner of the server; calls come from anywhere and wait for it. A call that was under way when the server
died is an error that says so; it is not repeated, since it may have taken effect.
"""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

import mcp_types as mcp
from mcp.shared.exceptions import MCPError

from perstack_runner.children import Children
from perstack_runner.messages import Limits, Part, SkillOrder, SkillState
from perstack_runner.results import clean
from perstack_runner.skills.content import result_parts
from perstack_runner.skills.failure import reason
from perstack_runner.skills.pipes import LastWords
from perstack_runner.skills.server import Server, Setting, connected
from perstack_runner.tools.outcome import ToolFailure

MAX_STARTS: Final = 4
LONGEST_START_SECONDS: Final = 600.0
LONGEST_CALL_SECONDS: Final = 3600.0
_DETAIL_CHARACTERS: Final = 4000

Report = Callable[[SkillState], None]


class Answer(NamedTuple):
    """What a tool of a server gave back."""

    parts: tuple[Part, ...]
    is_error: bool


class Skill:
    """One skill. Each news of it goes to `report`; `settled` is set when its first start has succeeded or failed."""

    def __init__(self, order: SkillOrder, setting: Setting, children: Children, limits: Limits, report: Report) -> None:
        self.name = order.name
        self.settled = asyncio.Event()
        self._order = order
        self._setting = setting
        self._children = children
        self._limits = limits
        self._report = report
        self._starts = 0
        self._wanted = asyncio.Event()
        self._server: asyncio.Future[Server] | None = None

    async def run(self) -> None:
        """Start the server, and again each time it is called after its end. Runs until it is cancelled."""
        self._demand()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            ready = self._demand()
            try:
                await self._live(ready)
            finally:
                self._give_up(ready, "the skill's server has ended")

    def _demand(self) -> "asyncio.Future[Server]":
        """The server that is up or on its way; a new one when the last has ended."""
        ready = self._server
        if ready is not None and not (ready.done() and ready.result().ended.is_set()):
            return ready
        if self._starts >= MAX_STARTS:
            raise ToolFailure("skill_unavailable", f"{self.name}: its server ended {self._starts} times; it stays off")
        self._server = asyncio.get_running_loop().create_future()
        self._wanted.set()
        return self._server

    def _give_up(self, ready: "asyncio.Future[Server]", why: str) -> None:
        if self._server is ready:
            self._server = None
        if not ready.done():
            ready.set_exception(ToolFailure("skill_unavailable", f"{self.name}: {why}"))
            ready.exception()  # whoever waits gets it; that nobody does is no fault

    async def _live(self, ready: "asyncio.Future[Server]") -> None:
        """One life of the server, from its start to its end, with what is reported of it."""
        self._starts += 1
        self._say("starting")
        words = LastWords(lambda text: self._say("stderr", text))
        state = "failed"
        try:
            async with asyncio.timeout(self._start_seconds()) as starting:
                async with connected(self._order, self._setting, self._children, words) as server:
                    starting.reschedule(None)
                    state = "disconnected"
                    self._connected(server, ready)
                    await server.ended.wait()
            why = "its server ended"
        except TimeoutError:
            why = f"not ready after {self._start_seconds():.0f} s"
        except Exception as error:
            why = reason(error)
        said = f"; its last words: {words.text.strip()}" if words.text.strip() else ""
        self._give_up(ready, why)
        self._say(state, clean(why + said))
        self.settled.set()

    def _connected(self, server: Server, ready: "asyncio.Future[Server]") -> None:
        news = SkillState(self.name, "connected", server.tools, "", clean(server.name), clean(server.version))
        self._report(news)
        self.settled.set()
        if not ready.done():
            ready.set_result(server)

    def _say(self, state: str, detail: str = "") -> None:
        self._report(SkillState(self.name, state, (), clean(detail)[:_DETAIL_CHARACTERS]))

    def _start_seconds(self) -> float:
        return self._limits.skill_start_timeout_ms / 1000 or LONGEST_START_SECONDS

    def call_seconds(self) -> float:
        """The time-out of its tools."""
        return (self._order.tool_timeout_ms or self._limits.tool_timeout_ms) / 1000 or LONGEST_CALL_SECONDS

    async def call(self, tool: str, arguments: dict[str, object], show: Callable[[str], None]) -> Answer:
        """Call a tool. A cancelled or late call is cancelled at the server too.

        Raises:
            ToolFailure: skill_unavailable, skill_disconnected, timeout, tool_error.
        """
        server = await asyncio.shield(self._demand())

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            if message:
                show(message + "\n")

        request = mcp.CallToolRequest(params=mcp.CallToolRequestParams(name=tool, arguments=arguments))
        seconds = self.call_seconds()
        try:
            # Not call_tool(): it checks the result against the server's own schema, an expression of hostile origin.
            result = await server.session.send_request(
                request, mcp.CallToolResult, seconds, progress_callback=on_progress
            )
        except MCPError as error:
            raise self._failure(error, seconds) from None
        except (ValueError, RuntimeError) as error:
            raise ToolFailure("tool_error", f"{self.name}: {reason(error)}") from None
        return Answer(result_parts(result), result.is_error)

    def _failure(self, error: MCPError, seconds: float) -> ToolFailure:
        match error.code:
            case mcp.REQUEST_TIMEOUT:
                return ToolFailure("timeout", f"{self.name}: no answer in {seconds:.0f} s; the call was cancelled")
            case mcp.CONNECTION_CLOSED:
                message = f"{self.name}: its server ended during the call, which may or may not have taken effect"
                return ToolFailure("skill_disconnected", message)
            case _:
                return ToolFailure("tool_error", clean(error.message)[:_DETAIL_CHARACTERS])
