"""`[models]` of perstackd.toml."""

from decimal import Decimal
from pathlib import Path

import pytest

from perstackd.adapters.models.config import ModelsConfig
from perstackd.config import load
from perstackd.domain.errors import PerstackError
from perstackd.domain.prices import Price


def written(tmp_path: Path, text: str) -> ModelsConfig:
    path = tmp_path / "perstackd.toml"
    path.write_text(f"version = 1\n{text}")
    return load(path).models


def test_tiers_are_the_operators_over_those_that_are_built_in(tmp_path: Path) -> None:
    models = written(tmp_path, '[models.tiers.anthropic]\nlow = "mine"\n[models.tiers.openai]\nhigh = "gpt-6.1-sol"\n')
    assert models.tier_models()["openai"] == {"high": "gpt-6.1-sol"}
    assert models.tier_models()["anthropic"] == {
        "low": "mine",
        "middle": "claude-sonnet-5-5",
        "high": "claude-opus-5-5",
    }
    assert set(ModelsConfig().tier_models()) == {"anthropic"}


def test_a_price_that_is_not_said_of_a_cache_is_that_of_input(tmp_path: Path) -> None:
    models = written(
        tmp_path,
        '[models.prices]\n"my/m-1" = { input = 1.1, output = 4 }\n'
        '"my/*" = { input = 1, output = 2, cached_input = 0.1, cache_write = 1.25 }\n',
    )
    assert models.price_list() == {
        "my/m-1": Price(Decimal("1.1"), Decimal(4), Decimal("1.1"), Decimal("1.1")),
        "my/*": Price(Decimal(1), Decimal(2), Decimal("0.1"), Decimal("1.25")),
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[models.prices]\n"a/b" = { input = -1, output = 1 }\n', "models.prices.a/b.input: "),
        ('[models.prices]\n"a/b" = { input = 1 }\n', "models.prices.a/b.output: "),
        ('[models.prices]\n"a/b" = { input = inf, output = 1 }\n', "models.prices.a/b.input: "),
        ('[models.tiers.anthropic]\nmidle = "x"\n', "did you mean middle?"),
        ('[models.compatible.openai]\napi = "grpc"\n', "models.compatible.openai.api: "),
    ],
)
def test_what_is_wrong_is_told_with_its_key(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(PerstackError) as caught:
        written(tmp_path, text)
    assert caught.value.reason == "config_invalid"
    assert says in caught.value.message
