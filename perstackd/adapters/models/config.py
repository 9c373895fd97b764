"""`[models]` of perstackd.toml: who answers, where they are, what their tiers mean and what they cost."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import Field

from perstackd.adapters.config_section import AbsolutePath, Section
from perstackd.domain.context_window import ContextWindows
from perstackd.domain.model_tiers import Tiers
from perstackd.domain.prices import Price


class AnthropicConfig(Section):
    """`api_key_env` names the variable of the daemon's environment that holds the key.

    The key is sent to `base_url` and to no other host, but for `allowed_hosts` (`name` or `name:port`), which a
    definition's baseUrl may name.
    """

    base_url: str = ""
    allowed_hosts: tuple[str, ...] = ()
    api_key_env: str = "ANTHROPIC_API_KEY"


class CompatibleConfig(Section):
    """A provider that speaks OpenAI's protocols. Empty values mean the known provider's own. `api` is `responses` or
    `chat`; empty means what its address speaks.
    """

    base_url: str = ""
    api_key_env: str = ""
    allowed_hosts: tuple[str, ...] = ()
    api_version: str = ""
    api: Literal["", "chat", "responses"] = ""
    images: bool = True


class TierConfig(Section):
    """Which model of a provider an expert's modelTier means; empty for what is built in, if anything is."""

    low: str = ""
    middle: str = ""
    high: str = ""


class PriceConfig(Section):
    """US dollars per million tokens. What comes from a cache, or goes into it, costs as input unless it is said."""

    input: float = Field(ge=0, le=1e6)
    output: float = Field(ge=0, le=1e6)
    cached_input: float | None = Field(None, ge=0, le=1e6)
    cache_write: float | None = Field(None, ge=0, le=1e6)

    def price(self) -> Price:
        """The domain's value."""
        read, said = Decimal(str(self.input)), Decimal(str(self.output))
        cached = read if self.cached_input is None else Decimal(str(self.cached_input))
        return Price(read, said, cached, read if self.cache_write is None else Decimal(str(self.cache_write)))


class ReplayConfig(Section):
    """A recorded conversation that answers instead of a model."""

    file: AbsolutePath | None = None


_TIERS: Final[Tiers] = {
    "anthropic": {"low": "claude-haiku-5-5", "middle": "claude-sonnet-5-5", "high": "claude-opus-5-5"}
}


class ModelsConfig(Section):
    """Who answers. `record` names a file that turns are appended to, for `replay`. `tiers` are by provider; `prices`
    and `context_tokens` by `PROVIDER/MODEL` or `PROVIDER/PREFIX*`, and come before those that are built in. A history
    that fills `compact_at` of its model's context is compacted; 0 is never.
    """

    default_provider: str = "anthropic"
    default_model: str = "claude-sonnet-5-5"
    default_reasoning: Literal["none", "minimal", "low", "medium", "high"] | Annotated[int, Field(ge=0)] = "low"
    record: AbsolutePath | None = None
    anthropic: AnthropicConfig = AnthropicConfig()
    compatible: dict[str, CompatibleConfig] = Field(default_factory=dict)
    tiers: dict[str, TierConfig] = Field(default_factory=dict)
    prices: dict[str, PriceConfig] = Field(default_factory=dict)
    context_tokens: dict[str, Annotated[int, Field(ge=1000, le=100_000_000)]] = Field(default_factory=dict)
    compact_at: float = Field(0.75, ge=0, le=0.95)
    replay: ReplayConfig = ReplayConfig()

    def tier_models(self) -> Tiers:
        """The domain's value of `tiers`, with those that are built in."""
        own = {provider: tier.model_dump(exclude_defaults=True) for provider, tier in self.tiers.items()}
        return {provider: {**_TIERS.get(provider, {}), **own.get(provider, {})} for provider in {**_TIERS, **own}}

    def windows(self) -> ContextWindows:
        """The domain's value of `context_tokens` and `compact_at`."""
        return ContextWindows(self.compact_at, self.context_tokens)

    def price_list(self) -> Mapping[str, Price]:
        """The domain's value of `prices`: what comes before the built-in ones."""
        return {name: price.price() for name, price in self.prices.items()}
