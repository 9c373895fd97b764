"""What a run is told by those around it: the caller, the model, sandboxes, children, people."""

from dataclasses import dataclass
from typing import TypeAlias

from perstackd.domain.events import StartRun
from perstackd.domain.messages import JsonObject, ToolResultPart, Turn


@dataclass(frozen=True, slots=True)
class Begin:
    """All is known that model requests need."""

    start: StartRun


@dataclass(frozen=True, slots=True)
class Resume:
    """A run that was interrupted goes on in a fresh sandbox; `cause` says what became of the one before. `results` came
    before it was gone; `untouched` are calls that it had not been given.
    """

    cause: str
    results: tuple[ToolResultPart, ...] = ()
    untouched: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Generate:
    """A retry's delay is over, or a pause."""


@dataclass(frozen=True, slots=True)
class Generated:
    """The model's turn is complete."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class GenerationFailed:
    """The model call failed. `retry_after_ms` is the provider's wish, 0 when it had none."""

    reason: str
    message: str
    retryable: bool
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Summarised:
    """The model was asked for a summary of the history; this is its answer."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class SummaryFailed:
    """The call for a summary failed. Fields as in GenerationFailed."""

    reason: str
    message: str
    retryable: bool
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class CallsAnswered:
    """Results of all calls that were due."""

    results: tuple[ToolResultPart, ...]


@dataclass(frozen=True, slots=True)
class ChildrenAnswered:
    """Results of all delegations of the turn."""

    results: tuple[ToolResultPart, ...]


@dataclass(frozen=True, slots=True)
class Elicited:
    """A skill's server asks a person something while the call runs. `elicitation` is the sandbox's number for it,
    `fence` tells the sandbox from those that the run had before: each begins to count anew.
    """

    call_id: str
    elicitation: int
    message: str
    schema: JsonObject
    fence: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """A person answered a question: what may stand in `action` and `content` depends on its kind."""

    question_id: str
    action: str
    content: str = ""


@dataclass(frozen=True, slots=True)
class Park:
    """The sandboxes are given up while only people are waited for."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The caller wants it to end."""

    message: str = ""


@dataclass(frozen=True, slots=True)
class Fail:
    """It cannot go on."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Exhaust:
    """A budget of the job is used up."""

    budget: str
    limit: int


Stop: TypeAlias = Cancel | Fail | Exhaust
Command: TypeAlias = (
    Begin
    | Resume
    | Generate
    | Generated
    | GenerationFailed
    | Summarised
    | SummaryFailed
    | CallsAnswered
    | ChildrenAnswered
    | Elicited
    | Answer
    | Park
    | Cancel
    | Fail
    | Exhaust
)
