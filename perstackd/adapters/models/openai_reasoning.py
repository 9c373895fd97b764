"""How each family of models behind Chat Completions is told to reason, or not to; the others are told nothing.

Sources: https://developers.openai.com/api/docs/guides/reasoning, https://api-docs.deepseek.com/guides/thinking_mode,
https://docs.fireworks.ai/guides/reasoning, https://docs.ollama.com/api/openai-compatibility, and what these APIs
answer to a value that they do not take, as of November 2026.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from perstackd.adapters.models.openai_settings import Dialect
from perstackd.adapters.models.thinking import LEVEL_TOKENS, nearest_level
from perstackd.domain.messages import JsonObject


class Off(StrEnum):
    """What turns reasoning off."""

    EFFORT = "effort"
    """The effort `none`."""
    LEAST = "least"
    """Nothing does: the least effort is asked for."""
    THINKING = "thinking"
    """A field of DeepSeek's own."""
    UNSAID = "unsaid"
    """Nothing does, and nothing can be asked for: the model's name decides."""


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table: models in whose name `pattern` is found at the start of a word.

    `efforts` are those that it takes, least first; without any it reasons as it likes. `never_with_tools`: the API
    refuses tools unless reasoning is off. `shown_again`: what was reasoned before a call must go back with the call.
    `reasons` is false for models that do not, and for those that Chat Completions does not serve.
    """

    pattern: str
    efforts: tuple[str, ...] = ()
    off: Off = Off.EFFORT
    never_with_tools: bool = False
    shown_again: bool = False
    reasons: bool = True


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Arguments of a request, and how many tokens to add to the bound of the answer, which counts both."""

    arguments: JsonObject
    extra_tokens: int = 0
    shown_again: bool = False


_LEVELS: Final = ("minimal", "low", "medium", "high")
_THREE: Final = ("low", "medium", "high")
_GPT_OSS: Final = Family("gpt-oss", _THREE, Off.LEAST)
_OPENAI: Final = (
    Family(r"gpt-\d[\w.-]*-(chat|codex|pro|audio)\b|o1-(mini|preview)", reasons=False),
    Family(r"o\d", _THREE, Off.LEAST),
    Family(r"gpt-5(?![.\d])", _LEVELS, Off.LEAST),
    Family(r"gpt-5\.1(?!\d)", _THREE),
    # "Function tools with reasoning_effort are not supported" here but by the Responses API.
    Family(r"gpt-5\.\d|gpt-[6-9]", _THREE, never_with_tools=True),
)

# The first row that fits counts; a model that fits none is told nothing.
FAMILIES: Final[Mapping[Dialect, tuple[Family, ...]]] = MappingProxyType(
    {
        Dialect.OPENAI: _OPENAI,
        Dialect.AZURE: _OPENAI,
        Dialect.DEEPSEEK: (
            Family("deepseek-chat", reasons=False),
            Family("deepseek-(reasoner|r1)", off=Off.UNSAID, shown_again=True),
            Family("deepseek-", ("low", "high"), Off.THINKING, shown_again=True),
        ),
        Dialect.OLLAMA: (
            _GPT_OSS,
            Family(r"qwen3|deepseek-(r1|v3\.[1-9]|v[4-9])|magistral|glm-|kimi-k"),
        ),
        Dialect.FIREWORKS: (
            _GPT_OSS,
            Family("deepseek-v[4-9]", _THREE),
            Family(r"kimi-k2-thinking|kimi-k2p\d", _THREE, Off.LEAST),
            Family(r"deepseek-(r1|v3p[1-9])|glm-|qwen3(?!.*(instruct|coder))"),
        ),
        Dialect.COMPATIBLE: (_GPT_OSS,),
    }
)


def family_of(dialect: Dialect, model: str) -> Family | None:
    """The row of a model, whatever stands before its name: a publisher, a path, a word of an Azure deployment."""
    name = model.lower()
    return next((row for row in FAMILIES[dialect] if re.search(f"(?<![a-z0-9])({row.pattern})", name)), None)


def reasoning_for(dialect: Dialect, model: str, wanted: str | int, *, tools: bool) -> Reasoning:
    """What a request says for `wanted`: a level, `none`, or a number of tokens, which becomes the nearest level.

    A level that a family does not have becomes its next higher one.
    """
    family = family_of(dialect, model)
    if family is None or not family.reasons:
        return Reasoning({})
    if wanted in ("none", 0) or (tools and family.never_with_tools):
        return _off(family)
    level = wanted if isinstance(wanted, str) else nearest_level(wanted)
    arguments: JsonObject = {}
    if family.efforts:
        arguments["reasoning_effort"] = _effort(family, level)
    if family.off is Off.THINKING:
        arguments["extra_body"] = {"thinking": {"type": "enabled"}}
    return Reasoning(arguments, LEVEL_TOKENS[level], family.shown_again)


def _effort(family: Family, level: str) -> str:
    enough = _LEVELS[_LEVELS.index(level) :]
    return next((effort for effort in family.efforts if effort in enough), family.efforts[-1])


def _off(family: Family) -> Reasoning:
    match family.off:
        case Off.EFFORT:
            return Reasoning({"reasoning_effort": "none"})
        case Off.LEAST:
            least = family.efforts[0]
            return Reasoning({"reasoning_effort": least}, LEVEL_TOKENS[least])
        case Off.THINKING:
            return Reasoning({"extra_body": {"thinking": {"type": "disabled"}}})
        case Off.UNSAID:
            return Reasoning({}, LEVEL_TOKENS["low"], family.shown_again)
