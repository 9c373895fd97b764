"""How each family of Anthropic's models is told to think, or not to.

Source: https://platform.claude.com/docs/en/build-with-claude/thinking and the migration guides of the models, as of
the SDK 2.11. A family that is not in the table gets the newest way when it is a Claude model, and no instruction at
all when it is somebody else's model behind the same protocol.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from perstackd.domain.messages import JsonObject

MIN_BUDGET: Final = 1024
"""The least that a budget may be; it must also stay below `max_tokens`, which counts thinking and answer together."""

LEVEL_TOKENS: Final = {"minimal": MIN_BUDGET, "low": 4096, "medium": 8192, "high": 16384}
_EFFORT: Final = {"minimal": "low", "low": "low", "medium": "medium", "high": "high"}


class Off(StrEnum):
    """What turns thinking off."""

    OMIT = "omit"
    DISABLED = "disabled"
    BETWEEN_TOOLS = "between_tools"
    NEVER = "never"
    """It cannot be: the least effort is asked for."""


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table. `adaptive` takes an effort, otherwise a budget is given; `thinks` is false for neither."""

    pattern: str
    adaptive: bool
    off: Off
    thinks: bool = True


@dataclass(frozen=True, slots=True)
class Thinking:
    """Fields of the request's body, and how many tokens to add to the bound of the answer for them."""

    fields: JsonObject
    extra_tokens: int


# The first row that fits counts.
FAMILIES: Final = (
    Family(r"claude-3-7-|claude-(opus|sonnet|haiku)-4(-[015])?(-\d{8}|-latest)?$", adaptive=False, off=Off.OMIT),
    Family(r"claude-(instant|2|3)", adaptive=False, off=Off.OMIT, thinks=False),
    Family(r"claude-(opus|sonnet)-4-[678]", adaptive=True, off=Off.DISABLED),
    Family(r"claude-sonnet-5-5", adaptive=True, off=Off.BETWEEN_TOOLS),
    Family(r"claude-haiku-5-5|claude-(opus|sonnet)-5(-\d{8})?$", adaptive=True, off=Off.DISABLED),
    Family(r"claude-", adaptive=True, off=Off.NEVER),
    Family(r"", adaptive=False, off=Off.OMIT, thinks=False),
)


def family_of(model: str) -> Family:
    """The row of a model; platform prefixes such as `us.anthropic.` are passed over."""
    found = model[model.find("claude-") :] if "claude-" in model else model
    return next(family for family in FAMILIES if re.match(family.pattern, found))


def thinking_for(model: str, reasoning: str | int) -> Thinking:
    """What a request to `model` says for `reasoning`: a level, `none`, or a number of tokens.

    On an adaptive model a number becomes the effort whose level is nearest; a budget is raised to the least one.
    """
    family = family_of(model)
    if not family.thinks:
        return Thinking({}, 0)
    if reasoning in ("none", 0):
        return _off(family.off)
    if family.adaptive:
        level = reasoning if isinstance(reasoning, str) else nearest_level(reasoning)
        thinking: JsonObject = {"type": "adaptive", "display": "summarized"}
        return Thinking({"thinking": thinking, "output_config": {"effort": _EFFORT[level]}}, LEVEL_TOKENS[level])
    budget = LEVEL_TOKENS[reasoning] if isinstance(reasoning, str) else max(MIN_BUDGET, reasoning)
    return Thinking({"thinking": {"type": "enabled", "budget_tokens": budget}}, budget)


def mapped(model: str, reasoning: str | int) -> str:
    """What `model` is asked for instead of `reasoning`, as a sentence; empty if it is asked for just that."""
    family = family_of(model)
    off = reasoning in ("none", 0)
    if not family.thinks:
        return not_asked(model, reasoning)
    if off:
        return asked_instead(model, reasoning, "the effort low", "it always thinks") if family.off is Off.NEVER else ""
    if not family.adaptive:
        raised = isinstance(reasoning, int) and reasoning < MIN_BUDGET
        return asked_instead(model, reasoning, f"a budget of {MIN_BUDGET}", "it is the least one") if raised else ""
    if isinstance(reasoning, int):
        return asked_instead(model, reasoning, f"the effort {_EFFORT[nearest_level(reasoning)]}", "it takes no number")
    effort = _EFFORT[reasoning]
    return "" if effort == reasoning else asked_instead(model, reasoning, f"the effort {effort}", "it is the least one")


def asked_instead(model: str, reasoning: str | int, instead: str, why: str) -> str:
    """The sentence for a request in another form."""
    return f"reasoningBudget {reasoning} of the model {model!r} is asked for as {instead}: {why}."


def not_asked(model: str, reasoning: str | int) -> str:
    """The sentence for a model that is told nothing; none for a level, which is also what nobody chose."""
    if isinstance(reasoning, str) or reasoning == 0:
        return ""
    return f"reasoningBudget {reasoning} has no effect: the model {model!r} is not known to take one."


def nearest_level(tokens: int) -> str:
    """The level whose number of tokens is nearest; the smaller one of two."""
    return min(LEVEL_TOKENS, key=lambda level: abs(LEVEL_TOKENS[level] - tokens))


def _off(off: Off) -> Thinking:
    match off:
        case Off.OMIT:
            return Thinking({}, 0)
        case Off.NEVER:
            return Thinking({"output_config": {"effort": "low"}}, LEVEL_TOKENS["low"])
        case Off.DISABLED | Off.BETWEEN_TOOLS:
            return Thinking({"thinking": {"type": off.value}}, 0)
