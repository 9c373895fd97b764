"""A run's tools and who answers their calls; a turn's calls and delegations, and their results."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from perstackd.domain.messages import ToolResultPart, Turn


class Owner(StrEnum):
    """Who answers a call: a sandbox, the daemon at once, the daemon from the job's history and artefacts, a child run,
    a person.
    """

    SANDBOX = "sandbox"
    DAEMON = "daemon"
    ARCHIVE = "archive"
    DELEGATE = "delegate"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class ToolRoute:
    """From the name shown to the model to its owner: `skill` is empty for base tools; `target` is the tool's own
    name, or the delegate's key. A call with `approval` waits until a person allows it.
    """

    name: str
    owner: Owner
    target: str
    skill: str = ""
    approval: bool = False


@dataclass(frozen=True, slots=True)
class TodoItem:
    """One entry of a run's todo list."""

    id: int
    title: str
    completed: bool = False


@dataclass(frozen=True, slots=True)
class CallTools:
    """The model's turn, with its calls."""

    turn: Turn
    type: Literal["callTools"] = "callTools"


@dataclass(frozen=True, slots=True)
class DelegateCall:
    """One delegation: the expert and what it is asked."""

    call_id: str
    expert_key: str
    query: str


@dataclass(frozen=True, slots=True)
class CallDelegate:
    """Children are started. `results` are the turn's results so far."""

    calls: tuple[DelegateCall, ...]
    results: tuple[ToolResultPart, ...] = ()
    todos: tuple[TodoItem, ...] | None = None
    type: Literal["callDelegate"] = "callDelegate"


@dataclass(frozen=True, slots=True)
class ResolveToolResults:
    """All calls of the turn are answered. `results` are those that no earlier fact of the step carried; `todos` is the
    new list when one of them changed it.
    """

    results: tuple[ToolResultPart, ...]
    todos: tuple[TodoItem, ...] | None = None
    type: Literal["resolveToolResults"] = "resolveToolResults"


@dataclass(frozen=True, slots=True)
class AttemptCompletion:
    """The expert says that it is done. `results` are the turn's other results that no earlier fact carried."""

    call_id: str
    results: tuple[ToolResultPart, ...] = ()
    todos: tuple[TodoItem, ...] | None = None
    type: Literal["attemptCompletion"] = "attemptCompletion"


@dataclass(frozen=True, slots=True)
class FinishToolCall:
    """The tool message is complete. `results` are those that no earlier event of the step carried."""

    results: tuple[ToolResultPart, ...] = ()
    type: Literal["finishToolCall"] = "finishToolCall"


@dataclass(frozen=True, slots=True)
class ResumeToolCalls:
    """Calls that have no result are made now: those that a person approved, or those of a run that was taken up again.
    `results` are errors for the calls of which nobody knows whether they took effect.
    """

    call_ids: tuple[str, ...]
    results: tuple[ToolResultPart, ...] = ()
    type: Literal["resumeToolCalls"] = "resumeToolCalls"


@dataclass(frozen=True, slots=True)
class FinishAllToolCalls:
    """A run that was taken up again found all its calls answered."""

    type: Literal["finishAllToolCalls"] = "finishAllToolCalls"
