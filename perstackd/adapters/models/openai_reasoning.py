"""How each family of models behind OpenAI's protocols is told to reason, or not to; the others are told nothing.

Sources: https://developers.openai.com/api/docs/guides/reasoning, https://api-docs.deepseek.com/guides/thinking_mode,
https://docs.fireworks.ai/guides/reasoning, https://docs.ollama.com/api/openai-compatibility, and what these APIs
answer to a value that they do not take, as of November 2026.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from perstackd.adapters.models.openai_settings import Dialect
from perstackd.adapters.models.thinking import LEVEL_TOKENS, asked_instead, nearest_level, not_asked
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
    `reasons` is false for models that do not, and for those that the protocol does not serve.
    """

    pattern: str
    efforts: tuple[str, ...] = ()
    off: Off = Off.EFFORT
    never_with_tools: bool = False
    shown_again: bool = False
    reasons: bool = True


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Arguments of a request, and how many tokens to add to the bound of the answer, which counts both. `note` says
    what is asked for instead of what was wanted.
    """

    arguments: JsonObject
    extra_tokens: int = 0
    shown_again: bool = False
    note: str = ""


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

# Those that the Responses API serves beside, and what it can do more.
_RESPONSES: Final = (
    Family(r"gpt-\d[\w.-]*-(chat|audio)\b|o1-(mini|preview)", reasons=False),
    Family(r"gpt-5-pro\b", ("high",), Off.LEAST),
    Family(r"gpt-\d[\w.-]*-pro\b", ("medium", "high"), Off.LEAST),
    Family(r"gpt-\d[\w.-]*-codex\b", _THREE, Off.LEAST),
    Family(r"o\d", _THREE, Off.LEAST),
    Family(r"gpt-5(?![.\d])", _LEVELS, Off.LEAST),
    Family(r"gpt-5\.\d|gpt-[6-9]", _THREE),
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
    return _fitting(FAMILIES[dialect], model)


def reasoning_for(dialect: Dialect, model: str, wanted: str | int, *, tools: bool) -> Reasoning:
    """What a request of Chat Completions says for `wanted`: a level, `none`, or a number of tokens, which becomes the
    nearest level.

    A level that a family does not have becomes its next higher one.
    """
    family = family_of(dialect, model)
    if family is None or not family.reasons:
        return Reasoning({}, note=not_asked(model, wanted))
    if wanted in ("none", 0):
        return _off(family, model, wanted)
    if tools and family.never_with_tools:
        note = asked_instead(model, wanted, "none", "Chat Completions takes no tools beside it")
        return replace(_off(family, model, "none"), note=note)
    level = wanted if isinstance(wanted, str) else nearest_level(wanted)
    arguments: JsonObject = {}
    note = ""
    if family.efforts:
        effort = _effort(family, level)
        arguments["reasoning_effort"] = effort
        note = _note(model, wanted, effort)
    if family.off is Off.THINKING:
        arguments["extra_body"] = {"thinking": {"type": "enabled"}}
    return Reasoning(arguments, LEVEL_TOKENS[level], family.shown_again, note)


def responses_reasoning(model: str, wanted: str | int) -> Reasoning:
    """What a request of the Responses API says for `wanted`, as `reasoning_for` does.

    What was reasoned is asked for encrypted, since nothing is stored there, and in a summary to be read.
    """
    family = _fitting(_RESPONSES, model)
    if family is None or not family.reasons:
        return Reasoning({}, note=not_asked(model, wanted))
    include: JsonObject = {"include": ["reasoning.encrypted_content"]}
    if wanted in ("none", 0):
        off = _off(family, model, wanted)
        effort = off.arguments["reasoning_effort"]
        return replace(off, arguments={**include, "reasoning": {"effort": effort}})
    level = wanted if isinstance(wanted, str) else nearest_level(wanted)
    effort = _effort(family, level)
    arguments: JsonObject = {**include, "reasoning": {"effort": effort, "summary": "auto"}}
    return Reasoning(arguments, LEVEL_TOKENS[level], note=_note(model, wanted, effort))


def _fitting(families: tuple[Family, ...], model: str) -> Family | None:
    name = model.lower()
    return next((row for row in families if re.search(f"(?<![a-z0-9])({row.pattern})", name)), None)


def _note(model: str, wanted: str | int, effort: str) -> str:
    if wanted == effort:
        return ""
    why = "it takes no number" if isinstance(wanted, int) else f"it has no effort {wanted}"
    return asked_instead(model, wanted, f"the effort {effort}", why)


def _effort(family: Family, level: str) -> str:
    enough = _LEVELS[_LEVELS.index(level) :]
    return next((effort for effort in family.efforts if effort in enough), family.efforts[-1])


def _off(family: Family, model: str, wanted: str | int) -> Reasoning:
    match family.off:
        case Off.EFFORT:
            return Reasoning({"reasoning_effort": "none"})
        case Off.LEAST:
            least = family.efforts[0]
            note = asked_instead(model, wanted, f"the effort {least}", "it always reasons")
            return Reasoning({"reasoning_effort": least}, LEVEL_TOKENS[least], note=note)
        case Off.THINKING:
            return Reasoning({"extra_body": {"thinking": {"type": "disabled"}}})
        case Off.UNSAID:
            note = f"reasoningBudget {wanted} has no effect: the model {model!r} always reasons."
            return Reasoning({}, LEVEL_TOKENS["low"], family.shown_again, note)
