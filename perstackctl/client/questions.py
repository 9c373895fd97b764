"""What a job waits for a person to say, and the answer, as values. Texts in them are untrusted."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class QuestionKind(StrEnum):
    """An interactive tool's question, whether a call may be made, what a skill's server wants to know."""

    UNSPECIFIED = "unspecified"
    TOOL = "tool"
    APPROVAL = "approval"
    ELICITATION = "elicitation"


class Action(StrEnum):
    """What an answer does: `answer` a tool, `approve` or `deny` a call, the other three an elicitation."""

    ANSWER = "answer"
    APPROVE = "approve"
    DENY = "deny"
    ACCEPT = "accept"
    DECLINE = "decline"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Question:
    """Something that waits for a person. `id` is unique in its job, `answer_schema` a JSON Schema of the answer.

    `asked_at` is milliseconds since the Unix epoch.
    """

    id: str
    kind: QuestionKind
    run_id: str
    expert_key: str
    skill: str
    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""
    answer_schema: Mapping[str, Any] = field(default_factory=dict)
    asked_at: int = 0

    @property
    def short_id(self) -> str:
        """The part of the id after the run's: unique in its run."""
        return self.id.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person says. `content` is one JSON document, or empty when there is nothing to say but the action."""

    action: Action
    content: bytes = b""

    @classmethod
    def of(cls, action: Action, value: object) -> "Answer":
        """With a value that JSON knows, written so that equal values are equal bytes."""
        return cls(action, json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode())


ACTIONS: Final[Mapping[QuestionKind, tuple[Action, ...]]] = {
    QuestionKind.TOOL: (Action.ANSWER,),
    QuestionKind.APPROVAL: (Action.APPROVE, Action.DENY),
    QuestionKind.ELICITATION: (Action.ACCEPT, Action.DECLINE, Action.CANCEL),
}
