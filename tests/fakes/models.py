"""A model whose turns are known beforehand: instant, with no state that a request could depend on.

Which script plays is told by a marker in the system prompt, which entry by how many assistant messages the history
has. So parallel runs, retries and restarts all get the same answer to the same request.
"""

from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

import anyio

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import (
    FinishReason,
    JsonObject,
    Message,
    ModelEvent,
    ModelRequest,
    Role,
    TextDelta,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    ToolCallPart,
    Turn,
    Usage,
)

_COUNTS_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Held:
    """A turn that comes when the test says so: wait for `reached`, then set `release`."""

    turn: Turn
    reached: anyio.Event = field(default_factory=anyio.Event)
    release: anyio.Event = field(default_factory=anyio.Event)


@dataclass(frozen=True, slots=True)
class Paced:
    """A turn that takes so many seconds."""

    turn: Turn
    seconds: float


@dataclass(frozen=True, slots=True)
class Flaky:
    """The errors, one a call, then the turn: the only entry that depends on earlier calls."""

    errors: tuple[PerstackError, ...]
    turn: Turn


Entry: TypeAlias = Turn | PerstackError | Held | Paced | Flaky


class ScriptedModels:
    """Implements `Models`. `turns` maps a marker, which is looked for in `request.system`, to a script.

    The first marker found wins, in the mapping's order; "" fits every request. Past a script's end or without one
    it raises `no_recorded_turn`. `requests` holds the last `keep` requests; `close` sets `closed`.
    """

    def __init__(self, turns: Mapping[str, Sequence[Entry]], *, keep: int = 10_000) -> None:
        self._scripts = {marker: tuple(entries) for marker, entries in turns.items()}
        self._marker_of: dict[str, str] = {}
        self._failures: Counter[tuple[str, int]] = Counter()
        self._counts: dict[int, tuple[Message, int, Message, int]] = {}
        self.requests: deque[ModelRequest] = deque(maxlen=keep)
        self.closed = False

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        self.requests.append(request)
        marker = self._marker(request.system)
        position = self._assistant_messages(request.messages)
        script = self._scripts[marker]
        if position >= len(script):
            raise _missing(f"the script {marker!r} has {len(script)} turns; turn {position + 1} was asked for")
        for event in await self._play(script[position], (marker, position)):
            yield event

    async def close(self) -> None:
        self.closed = True

    async def _play(self, entry: Entry, place: tuple[str, int]) -> list[ModelEvent]:
        match entry:
            case Turn():
                return _events(entry)
            case PerstackError():
                raise again(entry)
            case Held():
                entry.reached.set()
                await entry.release.wait()
                return _events(entry.turn)
            case Paced(turn=turn, seconds=seconds):
                await anyio.sleep(seconds)
                return _events(turn)
            case Flaky():
                self._failures[place] += 1
                if self._failures[place] <= len(entry.errors):
                    raise again(entry.errors[self._failures[place] - 1])
                return _events(entry.turn)
            case _:
                assert_never(entry)

    def _marker(self, system: str) -> str:
        """Found once per system prompt, so that a call costs a dictionary look-up."""
        if system not in self._marker_of:
            found = next((marker for marker in self._scripts if marker in system), None)
            if found is None:
                raise _missing(f"none of the markers {sorted(self._scripts)} is in the system prompt {system[:200]!r}")
            self._marker_of[system] = found
        return self._marker_of[system]

    def _assistant_messages(self, messages: tuple[Message, ...]) -> int:
        """Counts only what is new when a history grew by appending, so that a call does not cost its length."""
        if not messages:
            return 0
        first, seen, last, count = self._counts.get(id(messages[0]), (None, 0, None, 0))
        if first is not messages[0] or seen > len(messages) or messages[seen - 1] is not last:
            seen, count = 0, 0
        count += sum(message.role is Role.ASSISTANT for message in messages[seen:])
        if len(self._counts) >= _COUNTS_KEPT:
            self._counts.clear()
        self._counts[id(messages[0])] = (messages[0], len(messages), messages[-1], count)
        return count


def says(text: str, *, usage: Usage | None = None) -> Turn:
    """A turn of text only: it completes the run."""
    return Turn((TextPart(text),), FinishReason.STOP, usage or Usage(10, 5), "scripted-1")


def calls(*wanted: tuple[str, JsonObject], text: str = "", prefix: str = "call", usage: Usage | None = None) -> Turn:
    """A turn that calls tools, as (name, arguments); call ids are `prefix-1`, `prefix-2`, ..."""
    spoken = (TextPart(text),) if text else ()
    parts = tuple(ToolCallPart(f"{prefix}-{n}", name, arguments) for n, (name, arguments) in enumerate(wanted, 1))
    return Turn((*spoken, *parts), FinishReason.TOOL_CALLS, usage or Usage(10, 5), "scripted-1")


def again(error: PerstackError) -> PerstackError:
    """A fresh copy: an exception that is raised twice would gather the tracebacks of both."""
    return PerstackError(error.kind, error.reason, error.message, fields=error.fields, retryable=error.retryable)


def _events(turn: Turn) -> list[ModelEvent]:
    events: list[ModelEvent] = []
    for part in turn.parts:
        match part:
            case TextPart(text=text) if text:
                events.append(TextDelta(text))
            case ThinkingPart(text=text) if text:
                events.append(ThinkingDelta(text))
            case _:
                pass
    return [*events, turn]


def _missing(what: str) -> PerstackError:
    return PerstackError(Kind.NOT_FOUND, "no_recorded_turn", f"No scripted turn: {what}.")
