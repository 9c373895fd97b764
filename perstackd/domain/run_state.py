"""Where a run stands: the fold of its events."""

from dataclasses import dataclass
from enum import StrEnum

from perstackd.domain.events import Question, StartRun, TodoItem
from perstackd.domain.messages import Message, ToolResultPart, Turn, Usage


class Phase(StrEnum):
    """Where a run stands; runtime.md of the design has the table."""

    INIT = "init"
    PREPARING = "preparing"
    GENERATING = "generating"
    CALLING = "calling"
    RESOLVING = "resolving"
    RESULT = "result"
    DELEGATING = "delegating"
    ASKING = "asking"
    FINISHING = "finishing"
    STOPPED = "stopped"


class Outcome(StrEnum):
    """How a run ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a run: its text, or a stable reason and a sentence."""

    outcome: Outcome
    text: str = ""
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """How full the model's context is, in tokens: `counted` by the provider with its latest turn, about `added` since.

    `refused`: the provider found the history too long. `fresh`: nothing was generated since it was compacted.
    `failures` and `too_long` count the tries of the compaction that is due; once it is `given_up` no other is begun
    before the provider refuses the history.
    """

    counted: int = 0
    added: int = 0
    refused: bool = False
    fresh: bool = False
    failures: int = 0
    too_long: int = 0
    given_up: bool = False

    @property
    def tokens(self) -> int:
        """What the next request takes."""
        return self.counted + self.added


@dataclass(frozen=True, slots=True)
class RunState:
    """The fold of a run's events. `results` are those of the turn in hand; `transient` is shown to the model once
    and dropped; `questions` wait for a person; `approved` are calls of the turn in hand that a person allowed.
    """

    phase: Phase = Phase.INIT
    start: StartRun | None = None
    step: int = 1
    messages: tuple[Message, ...] = ()
    transient: tuple[Message, ...] = ()
    turn: Turn | None = None
    results: tuple[ToolResultPart, ...] = ()
    questions: tuple[Question, ...] = ()
    approved: tuple[str, ...] = ()
    todos: tuple[TodoItem, ...] = ()
    usage: Usage = Usage()
    retries: int = 0
    window: Window = Window()
    end: RunEnd | None = None
