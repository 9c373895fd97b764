"""How many tokens a model's context holds, and from how many on a history is compacted.

The built-in figures were read in November 2026 from
https://platform.claude.com/docs/en/build-with-claude/context-windows and
https://developers.openai.com/api/docs/models; where a model bounds its input apart from its answer, the input counts.
They are small on purpose: a model that is not in the table gets a cautious figure, and a provider that says that a
history is too long has it compacted whatever stands here. `models.context_tokens` of the configuration comes first.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

UNKNOWN: Final = 128_000
RESERVE: Final = 25_000
"""Left free for the answer and what the model thinks before it, where the window is large enough."""

_MILLION: Final = dict.fromkeys(
    (
        "anthropic/claude-fable-*",
        "anthropic/claude-mythos-*",
        "anthropic/claude-opus-5*",
        "anthropic/claude-opus-4-6*",
        "anthropic/claude-opus-4-7*",
        "anthropic/claude-opus-4-8*",
        "anthropic/claude-sonnet-5*",
        "anthropic/claude-sonnet-4-6*",
        "anthropic/claude-haiku-5-5*",
        "deepseek/deepseek-v4*",
    ),
    1_000_000,
)
_OPENAI: Final = {
    "gpt-6*": 900_000,
    "gpt-5.6*": 900_000,
    "gpt-5.6-luna*": 272_000,
    "gpt-5.5*": 900_000,
    "gpt-5.4*": 900_000,
    "gpt-5.4-mini*": 272_000,
    "gpt-5.4-nano*": 272_000,
    "gpt-5*": 272_000,
    "gpt-4.1*": 1_000_000,
    "gpt-4o*": 128_000,
    "o*": 200_000,
}
WINDOWS: Final[Mapping[str, int]] = MappingProxyType(
    {
        **_MILLION,
        "anthropic/*": 200_000,
        **{f"{provider}/{model}": size for provider in ("openai", "azure-openai") for model, size in _OPENAI.items()},
        "ollama/*": 32_768,
        "replay/*": 1_000_000,
    }
)
"""By `PROVIDER/MODEL`, or `PROVIDER/PREFIX*` for all that begin so. Ollama's is what its server was started with."""


@dataclass(frozen=True, slots=True)
class ContextWindows:
    """`sizes` have the form of `WINDOWS` and come before it. `ratio` of a window is what a history may fill; 0: it is
    never compacted.
    """

    ratio: float = 0.75
    sizes: Mapping[str, int] = field(default_factory=dict)

    def compact_at(self, provider: str, model: str) -> int:
        """Tokens of a request from which on its history is compacted first; 0 means never."""
        if not self.ratio:
            return 0
        window = self.window(provider, model)
        return max(1, min(int(window * self.ratio), window - min(RESERVE, window // 4)))

    def window(self, provider: str, model: str) -> int:
        """The model's window in tokens. Of several entries that fit the longest counts."""
        wanted = f"{provider}/{model}"
        for table in (self.sizes, WINDOWS):
            fitting = [key for key in table if _fits(key, wanted)]
            if fitting:
                return table[max(fitting, key=len)]
        return UNKNOWN


def _fits(key: str, wanted: str) -> bool:
    return wanted.startswith(key[:-1]) if key.endswith("*") else wanted == key
