"""Where OpenAI's SDK sends a request, and whose key goes with it."""

import json
from dataclasses import replace

import pytest

from perstackd.adapters.models.openai import OpenAiModels
from perstackd.adapters.models.openai_settings import DEFAULTS, Dialect, OpenAiSettings, tidied
from perstackd.domain.errors import Kind, PerstackError
from tests.fakes.chat_api import answer, serving
from tests.unit.models.openai_world import ASKED, KEY, TURN, ask, models_of

pytestmark = pytest.mark.anyio


async def test_what_is_in_the_environment_for_openai_is_sent_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-environment")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-environment")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-environment")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-secret: environment")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://environment.example")
    async with serving(answer(TURN)) as api:
        models = models_of(api)
        await ask(models)
        await models.close()
    headers = api.received[0].headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert "environment" not in json.dumps(dict(headers))


@pytest.mark.parametrize("key", [None, "", "  ", "sk-ä", "sk-\n1"])
async def test_without_a_usable_key_nothing_is_sent(key: str | None) -> None:
    async with serving(answer(TURN)) as api:
        with pytest.raises(PerstackError) as caught:
            await ask(models_of(api, lambda: key))
    assert (caught.value.kind, caught.value.reason) == (Kind.DENIED, "model_key_missing")
    assert "OPENAI_API_KEY, the daemon's key for the provider openai," in caught.value.message
    assert api.received == []


async def test_a_new_key_is_used_from_the_next_call_on() -> None:
    keys = iter(["sk-old", "sk-new"])
    async with serving(answer(TURN), answer(TURN)) as api:
        models = models_of(api, lambda: next(keys))
        await ask(models)
        await ask(models)
        await models.close()
    assert [received.headers["authorization"] for received in api.received] == ["Bearer sk-old", "Bearer sk-new"]


@pytest.mark.parametrize(
    ("key", "headers", "sent"),
    [
        (None, (), None),
        ("  ", (), None),
        ("sk-cloud", (), "Bearer sk-cloud"),
        (None, (("Authorization", "Basic eA=="),), "Basic eA=="),
    ],
)
async def test_ollama_needs_no_key_and_is_sent_none_that_is_not_there(
    key: str | None, headers: tuple[tuple[str, str], ...], sent: str | None
) -> None:
    async with serving(answer(TURN)) as api:
        models = OpenAiModels(lambda: key, replace(DEFAULTS["ollama"], base_url=api.url))
        assert (await ask(models, replace(ASKED, headers=headers)))[-1] == TURN
        await models.close()
    assert api.received[0].headers.get("authorization") == sent


async def test_azure_is_asked_by_deployments_if_it_has_an_api_version() -> None:
    async with serving(answer(TURN)) as api:
        settings = replace(DEFAULTS["azure-openai"], base_url=f"{api.url}/openai/", api_version="2024-10-21")
        models = OpenAiModels(lambda: KEY, settings)
        assert (await ask(models))[-1] == TURN
        await models.close()
    received = api.received[0]
    assert received.path == "/openai/deployments/gpt-4.1-mini/chat/completions?api-version=2024-10-21"
    assert received.headers["api-key"] == KEY
    assert "authorization" not in received.headers


def test_a_provider_without_an_address_is_a_mistake_of_the_wiring() -> None:
    with pytest.raises(ValueError, match="azure-openai has no base URL"):
        OpenAiModels(lambda: KEY, DEFAULTS["azure-openai"])


async def test_the_key_goes_to_no_host_that_the_operator_did_not_allow() -> None:
    async with serving(answer(TURN)) as api:
        with pytest.raises(PerstackError) as caught:
            await ask(OpenAiModels(lambda: KEY, DEFAULTS["openai"]), replace(ASKED, base_url=api.url))
    assert (caught.value.kind, caught.value.reason) == (Kind.DENIED, "base_url_not_allowed")
    assert api.received == []


@pytest.mark.parametrize(
    "evil",
    [
        *("https://{host}@evil.example", "https://evil.example/{host}", "file://{host}/x"),
        *("https://{host}/v1?key=1", "https://[{host}/", "https://evil.example/v1", "http://127.0.0.1:1/v1"),
    ],
)
async def test_an_allowed_host_elsewhere_in_the_url_does_not_count(evil: str) -> None:
    settings = replace(DEFAULTS["openai"], allowed_hosts=frozenset({"models.example"}))
    with pytest.raises(PerstackError) as caught:
        await ask(OpenAiModels(lambda: KEY, settings), replace(ASKED, base_url=evil.format(host="models.example")))
    assert caught.value.reason == "base_url_not_allowed"


async def test_an_allowed_host_is_asked_at_its_own_address() -> None:
    async with serving(answer(TURN)) as api:
        settings = replace(DEFAULTS["openai"], allowed_hosts=frozenset({api.host}))
        models = OpenAiModels(lambda: KEY, settings)
        *_, turn = await ask(models, replace(ASKED, base_url=f"{api.url}/proxy"))
        await models.close()
    assert turn == TURN
    assert api.received[0].path == "/proxy/v1/chat/completions"


@pytest.mark.parametrize(
    ("dialect", "api_version", "url", "tidy"),
    [
        (Dialect.OPENAI, "", "https://x.example", "https://x.example/v1"),
        (Dialect.OPENAI, "", "https://x.example/v1/", "https://x.example/v1"),
        (Dialect.FIREWORKS, "", "https://x.example/inference", "https://x.example/inference/v1"),
        (Dialect.COMPATIBLE, "", "https://x.example/v1beta/openai/", "https://x.example/v1beta/openai"),
        (Dialect.COMPATIBLE, "", "https://x.example/api/paas/v4", "https://x.example/api/paas/v4"),
        (Dialect.COMPATIBLE, "", "https://x.example/vault", "https://x.example/vault/v1"),
        (Dialect.AZURE, "", "https://x.example", "https://x.example/openai/v1"),
        (Dialect.AZURE, "", "https://x.example/openai", "https://x.example/openai/v1"),
        (Dialect.AZURE, "", "https://x.example/openai/v1/", "https://x.example/openai/v1"),
        (Dialect.AZURE, "2024-10-21", "https://x.example/openai/v1", "https://x.example"),
        (Dialect.AZURE, "2024-10-21", "https://x.example/", "https://x.example"),
    ],
)
def test_a_base_url_may_leave_the_api_version_out(dialect: Dialect, api_version: str, url: str, tidy: str) -> None:
    settings = OpenAiSettings("any", url, "KEY", dialect, api_version=api_version)
    assert tidied(url, settings) == tidy
    assert tidied(tidy, settings) == tidy
