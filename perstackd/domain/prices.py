"""What a turn costs, in millionths of a US dollar: list prices by provider and model, and the operator's own.

A price per million tokens in dollars is a price per token in microdollars. Only tokens are counted: what a provider
asks for a search or a container beside them is not, nor are taxes, discounts, regional and priority surcharges. Where
a price depends on the hour (DeepSeek) the higher one stands here.

The built-in figures were read in November 2026 from
https://platform.claude.com/docs/en/about-claude/pricing (cache writes: 5 minutes, which is what is asked for),
https://developers.openai.com/api/docs/pricing (standard tier; cache writes: 30 minutes),
https://api-docs.deepseek.com/quick_start/pricing and https://docs.fireworks.ai/serverless/pricing. They are list
prices of that month and change without notice: `models.prices` of the configuration comes before them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import Usage


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens. `cache_write` is that of tokens that went into the provider's cache.

    A call whose whole input is longer than `long_from` tokens costs `long_input` times as much for all input, cached or
    not, and `long_output` times as much for its output; 0 means that length does not matter.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal
    cache_write: Decimal
    long_from: int = 0
    long_input: Decimal = Decimal(1)
    long_output: Decimal = Decimal(1)

    def microdollars(self, usage: Usage) -> int:
        """The cost of one call, rounded up. Usage of several calls has no length: sum their costs instead."""
        long = 0 < self.long_from < usage.input_tokens
        fresh = max(0, usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens)
        read = fresh * self.input + usage.cached_input_tokens * self.cached_input
        into = read + usage.cache_write_tokens * self.cache_write
        said = usage.output_tokens * self.output
        total = into * (self.long_input if long else 1) + said * (self.long_output if long else 1)
        return int(total.to_integral_value(ROUND_CEILING))


FREE: Final = Price(Decimal(0), Decimal(0), Decimal(0), Decimal(0))


def _rows(table: str, long_from: int = 0, long_input: str = "1", long_output: str = "1") -> dict[str, Price]:
    """One model a line: its name, then input, cached input, cache write and output."""
    found = {}
    for line in table.strip().splitlines():
        name, *figures = line.split()
        read, cached, write, said = (Decimal(figure) for figure in figures)
        found[name] = Price(read, said, cached, write, long_from, Decimal(long_input), Decimal(long_output))
    return found


_ANTHROPIC: Final = _rows("""
    claude-fable-5-1    10  0.25   12.5   50
    claude-mythos-5-1   10  0.25   12.5   50
    claude-fable-5      10  1      12.5   50
    claude-mythos-5     10  1      12.5   50
    claude-opus-5-5      4  0.2     5     20
    claude-opus-5        5  0.5     6.25  25
    claude-opus-4-8      5  0.5     6.25  25
    claude-opus-4-7      5  0.5     6.25  25
    claude-opus-4-6      5  0.5     6.25  25
    claude-opus-4-5      5  0.5     6.25  25
    claude-opus-4-1     15  1.5    18.75  75
    claude-opus-4       15  1.5    18.75  75
    claude-sonnet-5-5    2  0.1     2.5   10
    claude-sonnet-5      2  0.2     2.5   10
    claude-sonnet-4-6    3  0.3     3.75  15
    claude-sonnet-4-5    3  0.3     3.75  15
    claude-sonnet-4      3  0.3     3.75  15
    claude-haiku-4-5     1  0.1     1.25   5
""") | _rows("claude-haiku-5-5 0.1 0.01 0.125 0.5", 100_000, "5", "5")

# Models before gpt-5.6 have no price for what goes into the cache: it costs what it would cost anyway.
_OPENAI: Final = _rows("""
    gpt-5.5-pro         30     30     30     180
    gpt-5.4-pro         30     30     30     180
    gpt-5.4-mini         0.75   0.075  0.75    4.5
    gpt-5.4-nano         0.2    0.02   0.2     1.25
    gpt-5.3-codex        1.75   0.175  1.75   14
    gpt-5.2              1.75   0.175  1.75   14
    gpt-5.2-codex        1.75   0.175  1.75   14
    gpt-5.1              1.25   0.125  1.25   10
    gpt-5.1-codex        1.25   0.125  1.25   10
    gpt-5.1-codex-max    1.25   0.125  1.25   10
    gpt-5.1-codex-mini   0.25   0.025  0.25    2
    gpt-5                1.25   0.125  1.25   10
    gpt-5-codex          1.25   0.125  1.25   10
    gpt-5-mini           0.25   0.025  0.25    2
    gpt-5-nano           0.05   0.005  0.05    0.4
    gpt-5-pro           15     15     15     120
    gpt-4.1              2      0.5    2       8
    gpt-4.1-mini         0.4    0.1    0.4     1.6
    gpt-4.1-nano         0.1    0.025  0.1     0.4
    gpt-4o               2.5    1.25   2.5    10
    gpt-4o-mini          0.15   0.075  0.15    0.6
    o1                  15      7.5   15      60
    o3                   2      0.5    2       8
    o3-mini              1.1    0.55   1.1     4.4
    o3-pro              20     20     20      80
    o4-mini              1.1    0.275  1.1     4.4
""") | _rows(
    """
    gpt-6.1-sol     2    0.1   2.5    10
    gpt-6.1-terra   1    0.05  1.25    5
    gpt-6-astra    10    1    12.5    50
    gpt-6-sol       2    0.2   2.5    10
    gpt-6-luna      0.1  0.01  0.125   0.5
    gpt-5.6-sol     4    0.4   5      20
    gpt-5.6-terra   2    0.2   2.5    12
    gpt-5.6-luna    0.2  0.02  0.25    1.2
    gpt-5.5         5    0.5   5      30
    gpt-5.4         2.5  0.25  2.5    15
    """,
    272_000,
    "2",
    "1.5",
)

_DEEPSEEK: Final = _rows("""
    deepseek-flash     0.3   0.006  0.3   1.2
    deepseek-v4-flash  0.3   0.006  0.3   1.2
    deepseek-v4-pro    1.32  0.044  1.32  3.96
""")

_FIREWORKS: Final = _rows("""
    accounts/fireworks/models/kimi-k2p6        0.95  0.16   0.95  4
    accounts/fireworks/models/kimi-k2p5        0.6   0.1    0.6   3
    accounts/fireworks/models/deepseek-v4-pro  1.74  0.145  1.74  3.48
    accounts/fireworks/models/deepseek-v3p2    0.56  0.28   0.56  1.68
    accounts/fireworks/models/deepseek-v3p1    0.56  0.28   0.56  1.68
    accounts/fireworks/models/glm-5p1          1.4   0.26   1.4   4.4
    accounts/fireworks/models/glm-5            1     0.2    1     3.2
    accounts/fireworks/models/glm-4p7          0.6   0.3    0.6   2.2
    accounts/fireworks/models/gpt-oss-120b     0.15  0.015  0.15  0.6
    accounts/fireworks/models/gpt-oss-20b      0.07  0.035  0.07  0.3
""")

PRICES: Final[Mapping[str, Price]] = MappingProxyType(
    {
        **{f"anthropic/{model}": price for model, price in _ANTHROPIC.items()},
        **{f"openai/{model}": price for model, price in _OPENAI.items()},
        **{f"azure-openai/{model}": price for model, price in _OPENAI.items()},
        **{f"deepseek/{model}": price for model, price in _DEEPSEEK.items()},
        **{f"fireworks/{model}": price for model, price in _FIREWORKS.items()},
        "ollama/*": FREE,
        "replay/*": FREE,
    }
)
"""By `PROVIDER/MODEL`, or `PROVIDER/PREFIX*` for all that begin so. A name stands for its dated versions as well."""

MODELS_KEPT: Final = 256  # names come from clients
_DATED: Final = re.compile(r"(-latest|[-@]\d{8}|-\d{4}-\d{2}-\d{2})?")
_NO_PRICES: Final[Mapping[str, Price]] = MappingProxyType({})


def price_of(provider: str, model: str, overrides: Mapping[str, Price] = _NO_PRICES) -> Price | None:
    """The price of a model: an entry of `overrides`, which has the form of `PRICES`, before a built-in one; among those
    that fit, the longest. None if it is not known: `gpt-5` says nothing of what a `gpt-5-next` may cost.
    """
    wanted = f"{provider}/{model}"
    for table in (overrides, PRICES):
        fitting = [key for key in table if _fits(key, wanted)]
        if fitting:
            return table[max(fitting, key=len)]
    return None


class PriceList:
    """The prices that hold: `overrides` before the built-in ones. Remembers what it looked up: each turn asks twice."""

    def __init__(self, overrides: Mapping[str, Price] = _NO_PRICES) -> None:
        self._price = lru_cache(MODELS_KEPT)(lambda provider, model: price_of(provider, model, overrides))

    def cost_microdollars(self, provider: str, model: str, usage: Usage) -> int | None:
        """The cost of one call, rounded up; None if the price is not known."""
        price = self._price(provider, model)
        return None if price is None else price.microdollars(usage)


def known_price(provider: str, model: str, overrides: Mapping[str, Price] = _NO_PRICES) -> Price:
    """The price of a model under a money budget.

    Raises:
        PerstackError: PRECONDITION `price_unknown`.
    """
    price = price_of(provider, model, overrides)
    if price is not None:
        return price
    wanted = f"{provider}/{model}"[:200]
    raise PerstackError(
        Kind.PRECONDITION,
        "price_unknown",
        f"A money budget cannot be kept: the price of {wanted} is not known. Leave the budget out, name another model, "
        f'or ask the operator of perstackd to set models.prices."{wanted}".',
        fields={"model": wanted},
    )


def _fits(key: str, wanted: str) -> bool:
    if key.endswith("*"):
        return wanted.startswith(key[:-1])
    return wanted.startswith(key) and _DATED.fullmatch(wanted, len(key)) is not None
