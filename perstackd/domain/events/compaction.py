"""What becomes of a history that is too long."""

from dataclasses import dataclass, field
from typing import Literal

from perstackd.domain.messages import Usage


@dataclass(frozen=True, slots=True)
class ContextCompacted:
    """The model is shown `summary` in place of the messages before `kept_from`, the query excepted. What it stands for
    is in the events before. `before_tokens` is about what the history took; `usage` is what the summary took.
    """

    summary: str
    kept_from: int
    before_tokens: int
    usage: Usage
    model: str = ""
    type: Literal["contextCompacted"] = "contextCompacted"


@dataclass(frozen=True, slots=True)
class CompactionFailed:
    """No summary came. It is asked for again after `delay_ms`, or it is `given_up` and the history stays as it is."""

    reason: str
    message: str
    delay_ms: int = 0
    given_up: bool = False
    usage: Usage = field(default_factory=Usage)
    type: Literal["compactionFailed"] = "compactionFailed"
