"""What a person is asked, and what was answered."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from perstackd.domain.events.tools import TodoItem
from perstackd.domain.messages import JsonObject, ToolResultPart


class QuestionKind(StrEnum):
    """What a person is asked: an interactive tool's question, whether a call may be made, what a server wants to know
    while its tool runs.
    """

    TOOL = "tool"
    APPROVAL = "approval"
    ELICITATION = "elicitation"


@dataclass(frozen=True, slots=True)
class Question:
    """Something that waits for a person. `id` is unique in its run. `answer_schema` is a JSON Schema of the answer."""

    id: str
    kind: QuestionKind
    call_id: str
    skill: str
    tool: str
    arguments: JsonObject
    message: str
    answer_schema: JsonObject


@dataclass(frozen=True, slots=True)
class CallInteractiveTool:
    """A person is asked, for each of the turn's interactive calls. `results` are the turn's results since the last fact
    that carried some.
    """

    questions: tuple[Question, ...]
    results: tuple[ToolResultPart, ...] = ()
    todos: tuple[TodoItem, ...] | None = None
    type: Literal["callInteractiveTool"] = "callInteractiveTool"


@dataclass(frozen=True, slots=True)
class ApprovalRequested:
    """A call is held back until a person has said whether it may be made. `results` as in callInteractiveTool."""

    question: Question
    results: tuple[ToolResultPart, ...] = ()
    todos: tuple[TodoItem, ...] | None = None
    type: Literal["approvalRequested"] = "approvalRequested"


@dataclass(frozen=True, slots=True)
class ElicitationRequested:
    """A skill's server asks a person something while its tool runs. `elicitation` is the sandbox's own number."""

    question: Question
    elicitation: int
    type: Literal["elicitationRequested"] = "elicitationRequested"


@dataclass(frozen=True, slots=True)
class QuestionAnswered:
    """A tool's question or an elicitation has its answer: action `answer`, `accept`, `decline` or `cancel`; content is
    the text of a tool's answer or the canonical JSON of an object.
    """

    id: str
    call_id: str
    kind: QuestionKind
    action: str
    content: str = ""
    type: Literal["questionAnswered"] = "questionAnswered"


@dataclass(frozen=True, slots=True)
class ApprovalDecided:
    """A person allowed a call, or did not."""

    id: str
    call_id: str
    approved: bool
    reason: str = ""
    type: Literal["approvalDecided"] = "approvalDecided"
