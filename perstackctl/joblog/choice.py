"""Which events of a log are meant. Pure.

Kinds (types, errors, tools, delegations, messages) add up: an event of any of them is meant. Steps and run narrow.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from perstackctl.client.errors import InvalidError
from perstackctl.client.values import Event
from perstackctl.watch import payload as p

_OF_JOB: Final = ("jobCreated", "jobQueued", "jobAdmitted", "jobPaused", "jobResumed", "jobFinished")
_OF_SANDBOX: Final = (
    *("sandboxAssigned", "sandboxReleased", "initializeRuntime", "secretReleased", "skillStarting", "skillConnected"),
    *("skillToolsChanged", "toolRenamed", "reasoningMapped", "skillStderr", "skillDisconnected", "egressDenied"),
    "proxyAccess",
)
_OF_RUN: Final = (
    *("startRun", "startGeneration", "retry", "callTools", "callDelegate", "callInteractiveTool", "approvalRequested"),
    *("elicitationRequested", "questionAnswered", "approvalDecided", "resolveToolResults", "attemptCompletion"),
    *("finishToolCall", "resumeToolCalls", "finishAllToolCalls", "continueToNextStep", "contextCompacted"),
    *("compactionFailed", "historyInherited"),
    *("completeRun", "stopRunByInteractiveTool", "stopRunByDelegate", "stopRunByExceededMaxSteps"),
    *("stopRunByExceededBudget", "stopRunByError", "stopRunByCancel"),
)
TYPES: Final = (*_OF_JOB, *_OF_SANDBOX, *_OF_RUN)

_ASKING: Final = frozenset({"approvalRequested", "elicitationRequested", "questionAnswered", "approvalDecided"})
_ENDS: Final = frozenset({"completeRun", *(name for name in _OF_RUN if name.startswith("stopRunBy"))})
_RESULTS: Final = frozenset({"resolveToolResults", "attemptCompletion", "finishToolCall", "callDelegate"})
_ALWAYS_ERRORS: Final = frozenset(
    {"retry", "egressDenied", "skillDisconnected", "stopRunByError", "stopRunByExceededMaxSteps"}
    | {"stopRunByExceededBudget", "compactionFailed"}
)
_TOOLS: Final = frozenset(
    {"skillConnected", "skillDisconnected", "skillStderr", "skillToolsChanged", "toolRenamed", "resumeToolCalls"}
    | {"callInteractiveTool"}
    | _ASKING
)
_MESSAGES: Final = frozenset(
    {
        "jobCreated",
        "startRun",
        "historyInherited",
        "callTools",
        "callInteractiveTool",
        "contextCompacted",
        "completeRun",
        "jobFinished",
    }
    | _ASKING
)
_STEPS: Final = re.compile(r"(>=|<=|>|<|=?)(\d{1,9})|(\d{1,9})-(\d{1,9})", re.ASCII)
_MOST_STEPS: Final = 2**32


@dataclass(frozen=True, slots=True)
class Steps:
    """A range of step numbers, both ends included."""

    first: int = 0
    last: int = _MOST_STEPS

    @classmethod
    def read(cls, text: str) -> "Steps":
        """From 5, >=5, >5, <=5, <5 or 3-7.

        Raises:
            InvalidError: something else, or a range with nothing in it.
        """
        match = _STEPS.fullmatch(text.replace(" ", ""))
        if match is None:
            raise InvalidError(f"--step {text!r} is not a step; write 5, '>=5', '<5' or 3-7", reason="filter_invalid")
        sign, number, low, high = match.groups()
        if low is not None:
            found = cls(int(low), int(high))
        else:
            at = int(number)
            found = {"": cls(at, at), "=": cls(at, at), ">=": cls(at), ">": cls(at + 1)}.get(sign) or cls(
                1, at if sign == "<=" else at - 1
            )
        if found.first > found.last:
            raise InvalidError(f"--step {text!r} has no step in it", reason="filter_invalid")
        return found

    def __contains__(self, step: int) -> bool:
        return self.first <= step <= self.last


@dataclass(frozen=True, slots=True)
class Choice:
    """What is meant; without anything said, all events are."""

    types: frozenset[str] = frozenset()
    steps: Steps | None = None
    run_id: str = ""
    errors: bool = False
    tools: bool = False
    delegations: bool = False
    messages: bool = False

    @property
    def everything(self) -> bool:
        """Whether no event is left out."""
        return self == Choice()

    def keeps(self, event: Event, fields: p.Fields) -> bool:
        """Whether this event is meant."""
        if self.run_id and event.run_id != self.run_id:
            return False
        if self.steps is not None and (not event.run_id or event.step_number not in self.steps):
            return False
        asked = [
            (self.errors, _is_error),
            (self.tools, _is_of_tools),
            (self.delegations, _is_of_delegation),
            (self.messages, _is_message),
        ]
        wanted = [is_one for switch, is_one in asked if switch]
        if not wanted and not self.types:
            return True
        return event.type in self.types or any(is_one(event, fields) for is_one in wanted)


def known_types(names: Sequence[str]) -> frozenset[str]:
    """The names, all of them event types.

    Raises:
        InvalidError: one is not; with the nearest ones.
    """
    for name in names:
        if name not in TYPES:
            by_lower = {known.lower(): known for known in TYPES}
            near = get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(by_lower[each] for each in near)}?" if near else ""
            raise InvalidError(f"there is no event type {name!r}{hint}", reason="filter_invalid")
    return frozenset(names)


def _is_error(event: Event, fields: p.Fields) -> bool:
    match event.type:
        case "sandboxReleased":
            return p.text(fields, "cause") not in {"finished", "cancelled"}
        case "jobFinished":
            return p.text(fields, "outcome") != "completed"
        case name if name in _ALWAYS_ERRORS:
            return True
        case _:
            return any(result.get("isError") is True for result in p.items(fields, "results"))


def _is_of_tools(event: Event, fields: p.Fields) -> bool:
    if event.type == "callTools":
        return bool(p.parts(p.member(fields, "turn"), "parts", "toolCall"))
    return event.type in _TOOLS or (event.type in _RESULTS and bool(p.items(fields, "results")))


def _is_of_delegation(event: Event, _fields: p.Fields) -> bool:
    if event.type in {"callDelegate", "stopRunByDelegate"}:
        return True
    return bool(event.parent_run_id) and (event.type == "startRun" or event.type in _ENDS)


def _is_message(event: Event, fields: p.Fields) -> bool:
    return event.type in _MESSAGES or (event.type in _RESULTS and bool(p.items(fields, "results")))


@dataclass(slots=True)
class Window:
    """At most `limit` events, 0 for all of them; remembers whether some were left out."""

    limit: int = 0
    shown: int = field(default=0, init=False)
    full: bool = field(default=False, init=False)

    def takes(self) -> bool:
        """Whether one more fits; counts it."""
        self.full = bool(self.limit) and self.shown >= self.limit
        self.shown += not self.full
        return not self.full


CATEGORIES: Final[Mapping[str, str]] = {
    "errors": "what went wrong: failed calls, retries, refused connections, limits",
    "tools": "calls of tools, their results, skills, questions",
    "delegations": "who asked whom, and how it ended",
    "messages": "what was said: queries, turns, results, answers",
}
