"""The model providers of this daemon, from its configuration."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import structlog

from perstackd.adapters.clock import SystemClock
from perstackd.adapters.models.anthropic import AnthropicModels, AnthropicSettings
from perstackd.adapters.models.config import CompatibleConfig, ModelsConfig
from perstackd.adapters.models.openai import OpenAiModels
from perstackd.adapters.models.openai_settings import DEFAULTS, OpenAiSettings, WireApi
from perstackd.adapters.models.recorder import RecordingModels
from perstackd.adapters.models.replay import ReplayModels
from perstackd.adapters.models.router import ModelRouter
from perstackd.app.unforeseen import unforeseen
from perstackd.domain.errors import PerstackError
from perstackd.domain.messages import Usage
from perstackd.domain.prices import PriceList
from perstackd.domain.prompt import expert_of
from perstackd.ports.event_store import Blobs
from perstackd.ports.models import Models

Providers: TypeAlias = Mapping[str, Callable[[], Models]]
Keys: TypeAlias = Callable[[str, str], str | None]
"""The key of a provider, which may also be in a variable of the daemon's environment: (provider, variable)."""
_log = structlog.get_logger()


def environment_key(_provider: str, variable: str) -> str | None:
    """A key that is nowhere but in the environment."""
    return os.environ.get(variable)


def providers(models: ModelsConfig, blobs: Blobs, keys: Keys = environment_key) -> Providers:
    """By name, how each is made; none is imported before it is used. `keys` is asked at each call."""
    key = partial(keys, "anthropic", models.anthropic.api_key_env)
    settings = AnthropicSettings(
        key_name=models.anthropic.api_key_env, allowed_hosts=frozenset(models.anthropic.allowed_hosts)
    )
    if models.anthropic.base_url:
        settings = replace(settings, base_url=models.anthropic.base_url)
    made: dict[str, Callable[[], Models]] = {"anthropic": lambda: AnthropicModels(key, settings, blobs)}
    made |= {
        each.provider: partial(_openai, each, blobs, keys)
        for each in _openai_providers(models.compatible)
        if each.base_url
    }
    if models.replay.file is not None:
        file = models.replay.file
        made["replay"] = lambda: ReplayModels(file)
    return made


def _openai(settings: OpenAiSettings, blobs: Blobs, keys: Keys) -> OpenAiModels:
    return OpenAiModels(partial(keys, settings.provider, settings.key_name), settings, blobs)


def key_names(models: ModelsConfig) -> dict[str, str]:
    """The environment variable of each provider's key."""
    compatible = {each.provider: each.key_name for each in _openai_providers(models.compatible)}
    return {"anthropic": models.anthropic.api_key_env, **compatible}


def _openai_providers(configured: Mapping[str, CompatibleConfig]) -> Iterator[OpenAiSettings]:
    """The known providers of the protocol as the operator changed them, and those that only the operator knows."""
    for name in (*DEFAULTS, *(name for name in configured if name not in DEFAULTS)):
        section = configured.get(name, CompatibleConfig())
        known = DEFAULTS.get(name, OpenAiSettings(name, "", f"{name.upper().replace('-', '_')}_API_KEY"))
        yield replace(
            known,
            base_url=section.base_url or known.base_url,
            key_name=section.api_key_env or known.key_name,
            allowed_hosts=frozenset(section.allowed_hosts),
            api_version=section.api_version,
            api=WireApi(section.api),
            images=known.images and section.images,
        )


def base_url_hosts(models: ModelsConfig) -> frozenset[str]:
    """Hosts that a definition's baseUrl may name, whoever the provider is."""
    hosts = (models.anthropic.allowed_hosts, *(section.allowed_hosts for section in models.compatible.values()))
    return frozenset(host for some in hosts for host in some)


def recorded(models: ModelsConfig, router: ModelRouter) -> Models:
    """The router, with a recorder in front when `models.record` asks for one."""
    file = models.record
    return RecordingModels(router, file, lambda request: expert_of(request.system)) if file else router


def checker(router: ModelRouter) -> Callable[[str], None]:
    """Raises PerstackError UNSUPPORTED `provider_not_there` for a provider that is not configured."""

    def check(provider: str) -> None:
        router.provider(provider)

    return check


def prices(models: ModelsConfig) -> Callable[[str, str, Usage], int | None]:
    """A replayed turn costs nothing."""
    own = PriceList(models.price_list())

    def price(provider: str, model: str, usage: Usage) -> int | None:
        return 0 if provider == "replay" else own.cost_microdollars(provider, model, usage)

    return price


async def warm(models: ModelsConfig, router: ModelRouter) -> None:
    """Load the default provider's SDK before the first job pays for it. What is wrong with it is told to each job, and
    is no reason to end the daemon.
    """
    try:
        provider = router.provider(models.default_provider)
        if isinstance(provider, AnthropicModels | OpenAiModels | ReplayModels):
            await provider.warm()
    except PerstackError as error:
        _log.warning("the default model provider is not there", reason=error.message)
    except Exception as error:
        unforeseen(SystemClock(), error, provider=models.default_provider)
