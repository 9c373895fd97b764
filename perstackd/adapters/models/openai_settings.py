"""Providers that speak OpenAI's protocols: where each is, what its key is called, and how it reads them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit


class Dialect(StrEnum):
    """Whose reading of the protocol a server follows; `compatible` is one that we know nothing else of."""

    OPENAI = "openai"
    AZURE = "azure-openai"
    DEEPSEEK = "deepseek"
    OLLAMA = "ollama"
    FIREWORKS = "fireworks"
    COMPATIBLE = "compatible"


class WireApi(StrEnum):
    """Which of OpenAI's two protocols is spoken; `auto` asks the address, see `speaks_responses`."""

    AUTO = ""
    CHAT = "chat"
    RESPONSES = "responses"


@dataclass(frozen=True, slots=True)
class OpenAiSettings:
    """A provider. `provider` and `key_name` (an environment variable) are what errors call it and its key.

    `allowed_hosts` (`name` or `name:port`) are those that a definition's base URL may name beside `base_url`.
    Without `key_needed` a key is sent if there is one. Without `images` they are told of in words. With an
    `api_version` Azure is spoken to in its older way, by deployments; without one by its `/openai/v1`.
    """

    provider: str
    base_url: str
    key_name: str
    dialect: Dialect = Dialect.COMPATIBLE
    allowed_hosts: frozenset[str] = frozenset()
    key_needed: bool = True
    images: bool = True
    api_version: str = ""
    api: WireApi = WireApi.AUTO

    @property
    def deployments(self) -> bool:
        """Whether the address is that of an Azure resource, below which each model has an address of its own."""
        return self.dialect is Dialect.AZURE and bool(self.api_version)


DEFAULTS: Final[Mapping[str, OpenAiSettings]] = MappingProxyType(
    {
        settings.provider: settings
        for settings in (
            OpenAiSettings("openai", "https://api.openai.com/v1", "OPENAI_API_KEY", Dialect.OPENAI),
            OpenAiSettings("azure-openai", "", "AZURE_OPENAI_API_KEY", Dialect.AZURE),
            # Its chat models take text only, and refuse a request with an image in it.
            OpenAiSettings(
                "deepseek", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", Dialect.DEEPSEEK, images=False
            ),
            OpenAiSettings("ollama", "http://127.0.0.1:11434/v1", "OLLAMA_API_KEY", Dialect.OLLAMA, key_needed=False),
            OpenAiSettings(
                "fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY", Dialect.FIREWORKS
            ),
        )
    }
)
"""By the name that a definition gives. Azure has an address for each customer, which must be filled in."""

_VERSION: Final = re.compile(r"/v\d[^/]*(/|$)")


def speaks_responses(settings: OpenAiSettings, base_url: str) -> bool:
    """Whether the server at the address is asked by the Responses API, where models reason beside tools and the
    provider has tools of its own, and not by Chat Completions, which is all that most others speak.

    It is spoken to OpenAI's own hosts and to Azure's `/openai/v1`, unless the operator says otherwise.
    """
    if settings.api is not WireApi.AUTO:
        return settings.api is WireApi.RESPONSES
    if settings.dialect is Dialect.AZURE:
        return not settings.deployments
    host = (urlsplit(base_url).hostname or "").lower()
    return settings.dialect is Dialect.OPENAI and (host == "api.openai.com" or host.endswith(".api.openai.com"))


def tidied(base_url: str, settings: OpenAiSettings) -> str:
    """The address as the SDK wants it. With or without `/v1` at its end is the same for whoever writes it down."""
    url = base_url.rstrip("/")
    if settings.deployments:
        return url.removesuffix("/v1").removesuffix("/openai")
    if _VERSION.search(url):
        return url
    if settings.dialect is Dialect.AZURE:
        return f"{url.removesuffix('/openai')}/openai/v1"
    return f"{url}/v1"
