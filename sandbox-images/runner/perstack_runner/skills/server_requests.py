"""What a server asks of the runner and tells it: roots, questions to a person, log messages, a changed tool list.

Sampling is refused by the SDK, since no callback is given for it and it is not announced.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import mcp_types as mcp
from mcp.client import ClientRequestContext, IncomingMessage

from perstack_runner.clock import Clock
from perstack_runner.elicitations import Elicitations
from perstack_runner.skills.forms import filled, form
from perstack_runner.skills.last_words import LastWords
from perstack_runner.skills.pipes import NoMessageError

_LOG_CHARACTERS: Final = 2_000
ROOTS_SECONDS: Final = 0.1

CAPABILITIES: Final = mcp.ClientCapabilities(
    elicitation=mcp.ElicitationCapability(form=mcp.FormElicitationCapability()), roots=mcp.RootsCapability()
)


class ServerRequests:
    """Of one skill. `tools_changed` is set by the server's word; `root` is the workspace, or "" without one."""

    def __init__(self, skill: str, root: str, elicitations: Elicitations, words: LastWords) -> None:
        self.tools_changed = asyncio.Event()
        self._skill = skill
        self._root = root
        self._elicitations = elicitations
        self._words = words
        self._told_roots = False
        self._running: dict[str, Clock] = {}
        self._open = 0
        self._noise = 0
        self._first_noise = ""

    @property
    def noise(self) -> str:
        """Of lines that were no messages, how many and the first, as the end of a sentence; empty without any."""
        if not self._noise:
            return ""
        lines = "1 line that is no message" if self._noise == 1 else f"{self._noise} lines that are no messages"
        return f"; its output had {lines} of the protocol, the first: {self._first_noise}"

    @property
    def running(self) -> int:
        """How many calls are."""
        return len(self._running)

    @contextmanager
    def during(self, call_id: str, clock: Clock) -> Iterator[None]:
        """While a call runs, the server may ask a person, and the clock stands still until there is an answer."""
        self._running[call_id] = clock
        for _ in range(self._open):
            clock.hold()
        try:
            yield
        finally:
            del self._running[call_id]
            self._elicitations.cancel(call_id)

    async def list_roots(self, context: ClientRequestContext) -> mcp.ListRootsResult:
        """The workspace, or none."""
        self._told_roots = True
        roots = [mcp.Root.model_validate({"uri": f"file://{self._root}", "name": "workspace"})] if self._root else []
        return mcp.ListRootsResult(roots=roots)

    async def settle(self) -> None:
        """Once its tools are listed: a server that asked for the roots gets a moment to take the answer in. Before that
        it may refuse what is in them (server-filesystem looks at each directory first), and no word says when it has.
        """
        if self._told_roots:
            await asyncio.sleep(ROOTS_SECONDS)

    async def elicit(self, context: ClientRequestContext, params: mcp.ElicitRequestParams) -> mcp.ElicitResult:
        """A person's answer. Declined when it is no form, or no call runs: only a call may ask, the oldest one does."""
        schema = form(params.requested_schema) if isinstance(params, mcp.ElicitRequestFormParams) else None
        call_id = next(iter(self._running), None)
        if schema is None or call_id is None:
            return mcp.ElicitResult(action="decline")
        with self._held():
            return filled(await self._elicitations.ask(call_id, self._skill, params.message, schema))

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Nobody can tell which call waits, so that all do."""
        self._open += 1
        for clock in self._running.values():
            clock.hold()
        try:
            yield
        finally:
            self._open -= 1
            for clock in self._running.values():
                clock.release()

    async def log(self, params: mcp.LoggingMessageNotificationParams) -> None:
        """A log message, as a line of standard error."""
        data = params.data
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, default=str)
        source = f"{params.logger[:100]}: " if params.logger else ""
        self._words.log(f"[{params.level}] {source}{text[:_LOG_CHARACTERS]}")

    async def notice(self, message: IncomingMessage) -> None:
        """Every notification, also those that have a place of their own; and what came in the place of a message."""
        if isinstance(message, NoMessageError):
            self._noise += 1
            self._first_noise = self._first_noise or str(message).strip()
        elif isinstance(message, mcp.ToolListChangedNotification):
            self.tools_changed.set()
