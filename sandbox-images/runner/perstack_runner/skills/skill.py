"""A skill of the run: its server reached, reached again when it is gone and is called, left at the end.

run() is the owner of the server; calls come from anywhere and wait for it. A call that was under way when the server
went is an error that says so; it is not repeated, since it may have taken effect. Only one that the server did not look
at, because it did not know the session any more, is.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import mcp_types as mcp
from mcp.shared.exceptions import MCPError

from perstack_runner.children import Children
from perstack_runner.clock import Clock
from perstack_runner.elicitations import Elicitations
from perstack_runner.messages import Limits, SkillOrder, SkillState
from perstack_runner.results import clean
from perstack_runner.skills.failure import reason
from perstack_runner.skills.last_words import LastWords
from perstack_runner.skills.server import Server, Setting, connected, streams_of
from perstack_runner.skills.server_requests import ServerRequests
from perstack_runner.skills.tool_call import Answer, call_tool
from perstack_runner.skills.tool_list import ToolList
from perstack_runner.tools.outcome import ToolFailure

MAX_STARTS: Final = 4
LONGEST_START_SECONDS: Final = 600.0
LONGEST_CALL_SECONDS: Final = 3600.0
_LEAVING_SECONDS: Final = 5.0
_CAUSE_SECONDS: Final = 1.5
_DETAIL_CHARACTERS: Final = 4000

Report = Callable[[SkillState], None]


class Shared(NamedTuple):
    """What the skills of a sandbox have in common."""

    children: Children
    limits: Limits
    elicitations: Elicitations
    report: Report


class _Life:
    """A server on its way, up, or gone: `why` it went is known when `over` is set."""

    def __init__(self) -> None:
        self.ready: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()
        self.why = ""

    @property
    def is_gone(self) -> bool:
        ready = self.ready
        return self.over.is_set() or (
            ready.done() and ready.exception() is None and ready.result().streams.ended.is_set()
        )

    def end(self, skill: str, why: str) -> None:
        """Tell who waits. Idempotent; the first cause holds."""
        self.why = self.why or why
        self.over.set()
        if not self.ready.done():
            self.ready.set_exception(ToolFailure("skill_unavailable", f"{skill}: {why}"))
            self.ready.exception()  # whoever waits gets it; that nobody does is no fault


class Skill:
    """One skill. Each news of it goes to `report`; `settled` is set when its first start has succeeded or failed."""

    def __init__(self, order: SkillOrder, setting: Setting, shared: Shared) -> None:
        self.name = order.name
        self.settled = asyncio.Event()
        self._order = order
        self._setting = setting
        self._shared = shared
        self._words = LastWords(lambda text: self._say("stderr", text))
        self._requests = ServerRequests(order.name, setting.root, shared.elicitations, self._words)
        self._tools = ToolList(order, self._requests.tools_changed, self.start_seconds())
        self._starts = 0
        self._wanted = asyncio.Event()
        self._life: _Life | None = None

    async def run(self) -> None:
        """Start the server in its time, and again when it is called after its end. Runs until it is cancelled."""
        if self._order.start != "atCall":
            self._demand()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            life = self._demand()
            try:
                await self._live(life)
            finally:
                life.end(self.name, "the skill's server has ended")

    def _demand(self) -> _Life:
        """The server that is up or on its way; a new one when the last has ended."""
        if self._life is not None and not self._life.is_gone:
            return self._life
        if self._starts >= MAX_STARTS:
            raise ToolFailure("skill_unavailable", f"{self.name}: its server ended {self._starts} times; it stays off")
        self._life = _Life()
        self._wanted.set()
        return self._life

    async def _live(self, life: _Life) -> None:
        """One life of the server, from its start to its end, with what is reported of it."""
        self._starts += 1
        self._words.text = ""
        self._say("starting")
        state = "failed"
        try:
            async with asyncio.timeout(self.start_seconds()) as starting:
                connection = streams_of(self._order, self._setting, self._shared.children, self._words)
                async with connected(connection, self._order, self._requests) as server:
                    starting.reschedule(None)
                    state = "disconnected"
                    self._connected(server, life)
                    await self._attend(server)
            why = "its server does not know the session any more" if server.streams.lost() else "its server ended"
        except TimeoutError:
            said = self._requests.noise or "; startTimeout of the skill allows more"
            why = f"not ready after {self.start_seconds():g} s{said}"
        except Exception as error:
            why = reason(error)
        self._words.flush()
        why = clean(why)[:_DETAIL_CHARACTERS]
        said = f"; its last words: {self._words.text.strip()}" if self._words.text.strip() else ""
        life.end(self.name, why)
        self._say(state, why + said)
        self.settled.set()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError  # what broke while it was being left took the place of the cancellation

    def _connected(self, server: Server, life: _Life) -> None:
        news = SkillState(self.name, "connected", server.tools, "", clean(server.name), clean(server.version))
        self._shared.report(news)
        self.settled.set()
        life.ready.set_result(server)

    async def _attend(self, server: Server) -> None:
        """Until its end."""
        async with asyncio.TaskGroup() as group:
            listing = group.create_task(
                self._tools.watch(
                    server,
                    lambda tools: self._shared.report(SkillState(self.name, "toolsChanged", tools)),
                    lambda text: self._say("stderr", text),
                )
            )
            await server.streams.ended.wait()
            listing.cancel()

    def _say(self, state: str, detail: str = "") -> None:
        self._shared.report(SkillState(self.name, state, (), clean(detail)[:_DETAIL_CHARACTERS]))

    def start_seconds(self) -> float:
        """How long a start may take."""
        limit_ms = self._order.start_timeout_ms or self._shared.limits.skill_start_timeout_ms
        return limit_ms / 1000 or LONGEST_START_SECONDS

    def call_seconds(self) -> float:
        """The time-out of its tools."""
        return (self._order.tool_timeout_ms or self._shared.limits.tool_timeout_ms) / 1000 or LONGEST_CALL_SECONDS

    async def call(self, call_id: str, tool: str, arguments: dict[str, object], show: Callable[[str], None]) -> Answer:
        """Call a tool. A cancelled or late call is cancelled at the server too.

        Raises:
            ToolFailure: skill_unavailable, skill_disconnected, timeout, tool_error.
        """
        for last in (False, True):
            life = self._demand()
            server = await self._up(life)
            clock = Clock()
            try:
                async with clock:
                    clock.start(self.call_seconds())
                    with self._requests.during(call_id, clock):
                        answer = await call_tool(server.session, tool, arguments, show)
                self._answered()
                return answer
            except TimeoutError:
                message = f"{self.name}: no answer in {self.call_seconds():.0f} s; the call was cancelled"
                raise ToolFailure("timeout", message) from None
            except MCPError as error:
                if not server.streams.lost() or last:
                    if not _is_gone(error):
                        self._answered()
                    raise await _failure(self.name, error, life) from None
                server.streams.ended.set()
            except (ValueError, RuntimeError) as error:
                raise ToolFailure("tool_error", f"{self.name}: {reason(error)}") from None
            finally:
                if server.streams.worn(self._requests.running):
                    server.streams.ended.set()
        raise AssertionError("the last attempt returns or raises")

    async def _up(self, life: _Life) -> Server:
        try:
            async with asyncio.timeout(self.start_seconds() + _LEAVING_SECONDS):  # the last one may still be leaving
                return await asyncio.shield(life.ready)
        except TimeoutError:
            raise ToolFailure("skill_unavailable", f"{self.name}: its server is not ready") from None

    def _answered(self) -> None:
        """A remote server that answers is let go and come back as often as it likes."""
        if self._order.remote is not None:
            self._starts = min(self._starts, 1)


def _is_gone(error: MCPError) -> bool:
    """Whether the SDK made it, since no answer will come: servers use the same code for errors of their own."""
    return error.code == mcp.CONNECTION_CLOSED and error.message.startswith(("Connection closed", "SSE stream "))


async def _failure(skill: str, error: MCPError, life: _Life) -> ToolFailure:
    """What a call that got no result is told; waits a moment for the cause when the server is gone."""
    why = clean(error.message)[:_DETAIL_CHARACTERS]
    if not _is_gone(error):
        return ToolFailure("tool_error", why)
    if why == "Connection closed":
        with suppress(TimeoutError):
            async with asyncio.timeout(_CAUSE_SECONDS):
                await life.over.wait()
        why = life.why or "its server ended"
    elif "byte limit" in why:
        why = "its answer is over 16 MiB"
    message = f"{skill}: {why}, during the call, which may or may not have taken effect"
    return ToolFailure("skill_disconnected", message)
