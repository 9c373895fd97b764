"""How a run begins, goes from step to step, and ends."""

from dataclasses import dataclass
from typing import Literal

from perstackd.domain.events.tools import TodoItem, ToolRoute
from perstackd.domain.messages import Message, ProviderSkill, ToolResultPart, ToolSpec, Turn, Usage


@dataclass(frozen=True, slots=True)
class StartRun:
    """A run begins, with all that its model requests hold beside the history: nothing is hidden.

    `call_id` is the parent's call that it answers; empty for the coordinator. `max_steps` 0 means none of its own.
    `compact_at` are the tokens from which on its history is compacted; 0 means never.
    """

    query: str
    system: str
    tools: tuple[ToolSpec, ...]
    routes: tuple[ToolRoute, ...]
    provider: str
    model: str
    reasoning: str | int
    depth: int = 0
    call_id: str = ""
    max_steps: int = 0
    max_retries: int = 5
    compact_at: int = 0
    provider_tools: tuple[str, ...] = ()
    provider_tool_options: str = ""
    provider_skills: tuple[ProviderSkill, ...] = ()
    type: Literal["startRun"] = "startRun"


@dataclass(frozen=True, slots=True)
class HistoryInherited:
    """A run begins with the history of another job's run, up to one of its checkpoints. `start` is what that run was
    started with, without its query: the tools and the prompt that the history was made under stay. The history is
    kept here whole, so that the job does not depend on the one that it comes from.
    """

    parent_job_id: str
    parent_run_id: str
    parent_seq: int
    start: StartRun
    messages: tuple[Message, ...]
    todos: tuple[TodoItem, ...] = ()
    type: Literal["historyInherited"] = "historyInherited"


@dataclass(frozen=True, slots=True)
class StartGeneration:
    """The model is asked for this step's turn."""

    type: Literal["startGeneration"] = "startGeneration"


@dataclass(frozen=True, slots=True)
class Retry:
    """The generation gave nothing usable and is tried again after `delay_ms`. `turn` is kept when the model must
    see it.
    """

    reason: str
    message: str
    delay_ms: int = 0
    turn: Turn | None = None
    results: tuple[ToolResultPart, ...] = ()
    type: Literal["retry"] = "retry"


@dataclass(frozen=True, slots=True)
class ReasoningMapped:
    """The model takes its reasoning in another form than the definition gives it; the note says which."""

    note: str
    type: Literal["reasoningMapped"] = "reasoningMapped"


@dataclass(frozen=True, slots=True)
class ContinueToNextStep:
    """The step is over; the next one has number `step`."""

    step: int
    type: Literal["continueToNextStep"] = "continueToNextStep"


@dataclass(frozen=True, slots=True)
class CompleteRun:
    """The run's answer. `turn` is there when no earlier event carried it."""

    text: str
    usage: Usage
    turn: Turn | None = None
    type: Literal["completeRun"] = "completeRun"


@dataclass(frozen=True, slots=True)
class StopRunByInteractiveTool:
    """The sandbox is given up while a person is asked."""

    call_ids: tuple[str, ...]
    type: Literal["stopRunByInteractiveTool"] = "stopRunByInteractiveTool"


@dataclass(frozen=True, slots=True)
class StopRunByDelegate:
    """The sandbox is given up while children run."""

    call_ids: tuple[str, ...]
    type: Literal["stopRunByDelegate"] = "stopRunByDelegate"


@dataclass(frozen=True, slots=True)
class StopRunByExceededMaxSteps:
    """The step limit: whose it is (`run` or `job`) and what it was."""

    limit: int
    scope: str
    type: Literal["stopRunByExceededMaxSteps"] = "stopRunByExceededMaxSteps"


@dataclass(frozen=True, slots=True)
class StopRunByExceededBudget:
    """Another limit of the job: `wallClock`, `tokens`, `money`, `toolCalls`."""

    budget: str
    limit: int
    type: Literal["stopRunByExceededBudget"] = "stopRunByExceededBudget"


@dataclass(frozen=True, slots=True)
class StopRunByError:
    """The run failed: a stable reason and a sentence."""

    reason: str
    message: str
    type: Literal["stopRunByError"] = "stopRunByError"


@dataclass(frozen=True, slots=True)
class StopRunByCancel:
    """The caller cancelled."""

    message: str = ""
    type: Literal["stopRunByCancel"] = "stopRunByCancel"
