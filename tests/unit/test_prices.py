"""What a turn costs."""

from decimal import Decimal

import pytest

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.messages import Usage
from perstackd.domain.model_tiers import model_of_tier
from perstackd.domain.prices import FREE, PRICES, Price, PriceList, known_price, price_of

cost_microdollars = PriceList().cost_microdollars


def price(read: str, said: str, cached: str, written: str) -> Price:
    return Price(Decimal(read), Decimal(said), Decimal(cached), Decimal(written))


def test_each_kind_of_token_has_its_price() -> None:
    usage = Usage(1_000_000, 100_000, cached_input_tokens=600_000, reasoning_tokens=50_000, cache_write_tokens=100_000)
    # 300,000 at 2, 600,000 at 0.1, 100,000 at 2.5; what was reasoned is part of what was said, at 10.
    assert cost_microdollars("anthropic", "claude-sonnet-5-5", usage) == 600_000 + 60_000 + 250_000 + 1_000_000


def test_part_of_a_microdollar_counts_as_one() -> None:
    assert cost_microdollars("anthropic", "claude-haiku-5-5", Usage(1, 0)) == 1
    assert cost_microdollars("anthropic", "claude-haiku-5-5", Usage(0, 2)) == 1
    assert cost_microdollars("anthropic", "claude-haiku-5-5", Usage()) == 0


def test_counts_that_do_not_fit_together_never_pay_back() -> None:
    usage = Usage(10, 0, cached_input_tokens=100)
    assert cost_microdollars("openai", "gpt-5", usage) == 13


@pytest.mark.parametrize(
    ("model", "tokens", "microdollars"),
    [
        ("claude-haiku-5-5", 100_000, 10_000),
        ("claude-haiku-5-5", 100_010, 50_005),
        ("gpt-6.1-terra", 272_000, 272_000),
        ("gpt-6.1-terra", 272_001, 544_002),
        ("gpt-5", 300_000, 375_000),
    ],
)
def test_a_long_call_costs_what_the_provider_asks_for_it(model: str, tokens: int, microdollars: int) -> None:
    provider = "anthropic" if model.startswith("claude") else "openai"
    assert cost_microdollars(provider, model, Usage(tokens)) == microdollars


def test_what_a_long_call_says_has_a_price_of_its_own() -> None:
    assert cost_microdollars("openai", "gpt-5.6-sol", Usage(300_000, 1000, 300_000)) == 300_000 * 0.8 + 30_000


@pytest.mark.parametrize(
    ("provider", "model", "key"),
    [
        ("anthropic", "claude-sonnet-4-5-20250929", "anthropic/claude-sonnet-4-5"),
        ("anthropic", "claude-opus-5-5-latest", "anthropic/claude-opus-5-5"),
        ("openai", "gpt-5-2025-08-07", "openai/gpt-5"),
        ("openai", "gpt-5-mini-2025-08-07", "openai/gpt-5-mini"),
        ("azure-openai", "gpt-4.1", "azure-openai/gpt-4.1"),
        ("ollama", "qwen3:8b", "ollama/*"),
        ("replay", "claude-sonnet-5-5", "replay/*"),
        ("deepseek", "deepseek-v4-pro", "deepseek/deepseek-v4-pro"),
        ("fireworks", "accounts/fireworks/models/glm-5p1", "fireworks/accounts/fireworks/models/glm-5p1"),
    ],
)
def test_a_name_stands_for_its_dated_versions(provider: str, model: str, key: str) -> None:
    assert price_of(provider, model) == PRICES[key]


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("anthropic", "claude-sonnet-5-6"),
        ("anthropic", "claude-sonnet-5-5-turbo"),
        ("openai", "gpt-5.9"),
        ("openai", "gpt-5-next"),
        ("openai", "claude-sonnet-5-5"),
        ("deepseek", "deepseek-chat"),
        ("my-proxy", "gpt-5"),
        ("", ""),
    ],
)
def test_a_model_that_is_not_in_the_table_has_no_price(provider: str, model: str) -> None:
    assert price_of(provider, model) is None
    assert cost_microdollars(provider, model, Usage(1, 1)) is None


def test_the_operators_price_comes_before_the_built_in_one() -> None:
    mine, most = price("1", "2", "3", "4"), price("5", "6", "7", "8")
    overrides = {"openai/gpt-5": mine, "openai/*": most, "my-proxy/*": FREE}
    assert price_of("openai", "gpt-5-2025-08-07", overrides) == mine
    assert price_of("openai", "gpt-4.1", overrides) == most
    assert price_of("my-proxy", "anything", overrides) == FREE
    assert price_of("anthropic", "claude-opus-5", overrides) == PRICES["anthropic/claude-opus-5"]


def test_a_money_budget_needs_a_known_price() -> None:
    assert known_price("anthropic", "claude-opus-5") == price("5", "25", "0.5", "6.25")
    with pytest.raises(PerstackError) as caught:
        known_price("my-proxy", "m-1")
    assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "price_unknown")
    assert 'models.prices."my-proxy/m-1"' in caught.value.message


def test_no_price_is_free_by_mistake_and_a_cache_never_costs_more_to_read_than_to_do_without() -> None:
    for name, one in PRICES.items():
        assert one == FREE or (0 < one.cached_input <= one.input <= one.cache_write <= 2 * one.input), name
        assert one == FREE or one.output > one.input, name


def test_a_tier_is_what_the_operator_set() -> None:
    tiers = {"anthropic": {"low": "small", "middle": ""}}
    assert model_of_tier(tiers, "anthropic", "low") == "small"
    for provider, tier in (("anthropic", "middle"), ("anthropic", "high"), ("openai", "low")):
        with pytest.raises(PerstackError) as caught:
            model_of_tier(tiers, provider, tier)
        assert (caught.value.kind, caught.value.reason) == (Kind.PRECONDITION, "model_tier_unset")
        assert f"models.tiers.{provider}.{tier}" in caught.value.message
