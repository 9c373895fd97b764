"""The door to the providers: what is known of one before anything is asked of it."""

import pytest

from perstackd.adapters.models.anthropic import AnthropicModels, AnthropicSettings
from perstackd.adapters.models.openai import OpenAiModels
from perstackd.adapters.models.openai_settings import DEFAULTS
from perstackd.adapters.models.router import ModelRouter
from perstackd.domain.errors import Kind, PerstackError
from tests.fakes.models import ScriptedModels
from tests.fakes.store import FakeStore


def router(key: str | None) -> ModelRouter:
    blobs = FakeStore().blobs
    return ModelRouter(
        {
            "anthropic": lambda: AnthropicModels(lambda: key, AnthropicSettings(key_name="TEAM_KEY")),
            "openai": lambda: OpenAiModels(lambda: key, DEFAULTS["openai"], blobs),
            "ollama": lambda: OpenAiModels(lambda: key, DEFAULTS["ollama"], blobs),
            "scripted": lambda: ScriptedModels({}),
        }
    )


@pytest.mark.parametrize("key", [None, "", "  ", "sk-\nx", "sk-é"])
@pytest.mark.parametrize(("provider", "variable"), [("anthropic", "TEAM_KEY"), ("openai", "OPENAI_API_KEY")])
def test_a_provider_without_a_usable_key_is_refused_with_what_to_do(
    key: str | None, provider: str, variable: str
) -> None:
    with pytest.raises(PerstackError) as caught:
        router(key).check(provider)
    assert (caught.value.kind, caught.value.reason) == (Kind.DENIED, "model_key_missing")
    assert variable in caught.value.message
    assert f"perstackctl secret put --provider {provider}" in caught.value.message


@pytest.mark.parametrize("provider", ["anthropic", "openai", "ollama", "scripted"])
def test_a_provider_with_a_key_can_be_asked(provider: str) -> None:
    router("sk-1234").check(provider)


@pytest.mark.parametrize("provider", ["ollama", "scripted"])
def test_a_provider_that_needs_no_key_can_be_asked_without_one(provider: str) -> None:
    router(None).check(provider)


def test_a_provider_that_is_not_there_is_refused() -> None:
    with pytest.raises(PerstackError, match="no model provider 'other'") as caught:
        router("sk-1234").check("other")
    assert caught.value.reason == "provider_not_there"
