"""Takes secret values out of what sandboxes say, before it is stored or shown, and out of the daemon's own log.

Each job has a `Scrubber`, which knows the values that its runs were given; each of its sandboxes has an `AskScrubber`,
which also knows where its streams stand. Model turns are not touched: a provider's signature covers them.
"""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from operator import is_
from typing import Any, TypeVar, assert_never
from weakref import WeakSet

from perstackd.domain.scrub import NOTHING, net, net_of_bytes
from perstackd.domain.session import (
    Ask,
    BlobChunk,
    Elicit,
    Failure,
    Hello,
    LinkLost,
    NextTurn,
    ProbeResult,
    Progress,
    Ready,
    SkillPhase,
    SkillReport,
    ToolResults,
)

T = TypeVar("T")


class Scrubber:
    """The values that one job was given, as a net. A value that was replaced in the meantime stays in it."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._names: dict[str, str] = {}
        self.net = NOTHING
        self.bytes_net = NOTHING
        self.learn(values or {})

    def learn(self, values: Mapping[str, str]) -> None:
        """From now on these too, by their names. Cheap when they are known."""
        new = {value: name for name, value in sorted(values.items()) if value not in self._names}
        if new:
            self._names |= new
            self.net, self.bytes_net = net(self._names), net_of_bytes(self._names)

    def text(self, text: str) -> str:
        """Without the values."""
        return self.net.text(text)

    def value(self, value: T) -> T:
        """A frozen dataclass, tuple, list, mapping or text with every text in it scrubbed; other values as they are."""
        return _scrubbed(self, value) if self.net else value


class Scrubbing:
    """The scrubbers of a daemon: of the jobs that are alive, and of its own keys. For the log, so from any thread."""

    def __init__(self) -> None:
        self.own = Scrubber()
        self._jobs: WeakSet[Scrubber] = WeakSet()
        self._changing = threading.Lock()

    def watch(self, scrubber: Scrubber) -> None:
        """Keep this job's values out of the log for as long as the scrubber is in use."""
        with self._changing:
            self._jobs.add(scrubber)

    def text(self, text: str) -> str:
        """Without the values of any of them."""
        with self._changing:
            scrubbers = (self.own, *self._jobs)
        for scrubber in scrubbers:
            text = scrubber.net.text(text)
        return text


@dataclass(slots=True)
class _Stream:
    """Where a stream stands: what is held back of it, how many bytes passed, where its source said that it stood."""

    held: str = ""
    offset: int = 0
    heard: int = 0


_SLACK = 3
"""Bytes by which a source's offset and its text may differ without a gap: a character that was cut in two."""


class AskScrubber:
    """Of one sandbox. What a sandbox says goes through `heard` in its order."""

    def __init__(self, scrubber: Scrubber) -> None:
        self._scrubber = scrubber
        self._calls: dict[str, _Stream] = {}
        self._skills: dict[str, _Stream] = {}

    def heard(self, ask: Ask) -> Iterator[Ask]:
        """The ask as it may be stored and shown; before it what had been held back and is known now. None at all when
        all of it is held back.
        """
        match ask:
            case BlobChunk() | Hello() | ProbeResult() | NextTurn():
                yield ask  # blobs are scrubbed where they are put together
            case Progress():
                yield from self._progress(ask)
            case SkillReport(phase=SkillPhase.STDERR):
                yield from self._stderr(ask)
            case SkillReport(skill=skill):
                yield from self._rest_of_stderr(skill)
                yield self._scrubber.value(ask)
            case ToolResults():
                yield from self._rest_of_calls()
                yield self._scrubber.value(ask)
            case Failure() | LinkLost():
                yield from (rest for skill in tuple(self._skills) for rest in self._rest_of_stderr(skill))
                yield self._scrubber.value(ask)
            case Ready() | Elicit():
                yield self._scrubber.value(ask)
            case _:
                assert_never(ask)

    # --- streams ----------------------------------------------------------------------------------------------------
    def _progress(self, ask: Progress) -> Iterator[Progress]:
        stream = self._calls.get(ask.call_id)
        if stream is None:
            stream = self._calls[ask.call_id] = _Stream("", ask.offset, ask.offset)
        missing = ask.offset - stream.heard
        if missing > _SLACK:
            yield from self._rest_of_call(ask.call_id, stream)
            stream.offset += missing
        stream.heard = ask.offset + len(ask.delta.encode())
        passed, stream.held = self._scrubber.net.fed(stream.held, ask.delta)
        yield from _piece(ask.call_id, stream, passed)

    def _rest_of_call(self, call_id: str, stream: _Stream) -> Iterator[Progress]:
        held, stream.held = stream.held, ""
        yield from _piece(call_id, stream, self._scrubber.text(held))

    def _rest_of_calls(self) -> Iterator[Progress]:
        """All calls of the turn have ended."""
        for call_id, stream in self._calls.items():
            yield from self._rest_of_call(call_id, stream)
        self._calls.clear()

    def _stderr(self, report: SkillReport) -> Iterator[SkillReport]:
        """Whole lines pass at once: a value that is cut in two by a report is put together again."""
        stream = self._skills.setdefault(report.skill, _Stream())
        passed, stream.held = self._scrubber.net.fed(stream.held, report.detail)
        if passed:
            yield replace(report, detail=passed)

    def _rest_of_stderr(self, skill: str) -> Iterator[SkillReport]:
        stream = self._skills.pop(skill, None)
        if stream is not None and stream.held:
            yield SkillReport(skill, SkillPhase.STDERR, detail=self._scrubber.text(stream.held))


def _piece(call_id: str, stream: _Stream, text: str) -> Iterator[Progress]:
    if text:
        yield Progress(call_id, stream.offset, text)
        stream.offset += len(text.encode())


# --- values ---------------------------------------------------------------------------------------------------------
_IDENTITIES = frozenset({"call_id", "skill", "name", "digest"})
"""Fields that say whose a value is. The session has compared them, and a setting may have the same text as one."""


def _scrubbed(scrubber: Scrubber, value: Any) -> Any:
    """The same object when nothing of it was changed, as nearly always."""
    kind: Any = type(value)
    if kind is str:  # not an enumeration's member
        return scrubber.net.text(value)
    if kind is tuple or kind is list:
        items = [_scrubbed(scrubber, each) for each in value]
        return value if all(map(is_, items, value)) else kind(items)
    if kind is dict:
        return {_scrubbed(scrubber, key): _scrubbed(scrubber, each) for key, each in value.items()}
    changed = {}
    for name in _names(kind):
        had = getattr(value, name)
        has = _scrubbed(scrubber, had)
        if has is not had:
            changed[name] = has
    return replace(value, **changed) if changed else value


@cache
def _names(kind: Any) -> tuple[str, ...]:
    """Of the fields that may hold a text; none for what is no dataclass."""
    if not is_dataclass(kind):
        return ()
    return tuple(each.name for each in fields(kind) if each.init and each.name not in _IDENTITIES)
