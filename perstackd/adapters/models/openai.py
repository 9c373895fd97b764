"""OpenAI's Chat Completions, and the many servers that speak it, through the vendor's SDK.

Importing the SDK costs seconds on a busy machine and 40 MiB, so it happens in a thread at the first call, or in `warm`
when the daemon starts. The daemon's key goes to the configured address and to hosts that the operator allows, to nobody
else: a definition comes from a client, and may name any base URL.
"""

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from perstackd.adapters.models.openai_client import call_headers, http_client, make_client, sdk_errors
from perstackd.adapters.models.openai_request import arguments_of, wanted_blobs
from perstackd.adapters.models.openai_settings import OpenAiSettings, tidied
from perstackd.adapters.models.openai_turn import TurnBuilder
from perstackd.adapters.models.provider_access import ClientCache, allowed_base_url, usable_key
from perstackd.adapters.models.provider_call import ProviderCall, close_stream
from perstackd.adapters.models.shown_blobs import base64_texts
from perstackd.domain.messages import ModelEvent, ModelRequest
from perstackd.ports.event_store import Blobs

if TYPE_CHECKING:
    from httpx2 import AsyncClient
    from openai import AsyncOpenAI


class OpenAiModels:
    """Implements `Models`. `key` gives the API key at each call, so that a new one needs no restart.

    `blobs` is where images of the history are; without it they are told of in words. Raises what the port lists, and
    DENIED `base_url_not_allowed`. A consumer that stops early closes the iterator (`aclosing`). Making one without a
    base URL is a ValueError.
    """

    def __init__(self, key: Callable[[], str | None], settings: OpenAiSettings, blobs: Blobs | None = None) -> None:
        if not settings.base_url:
            raise ValueError(f"the provider {settings.provider} has no base URL: it must be configured")
        self._key = key
        self._settings = settings
        self._blobs = blobs
        self._http: AsyncClient | None = None
        self._clients: ClientCache[AsyncOpenAI] = ClientCache()
        self._loading = anyio.Lock()

    async def warm(self) -> None:
        """Import the SDK and make the HTTP client, in a thread. Idempotent."""
        async with self._loading:
            if self._http is None:
                self._http = await anyio.to_thread.run_sync(http_client)

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        settings = self._settings
        key = self._usable_key()
        base_url = allowed_base_url(request.base_url, settings.base_url, settings.allowed_hosts, self._tidied)
        call = ProviderCall(request, key)
        await self.warm()
        arguments = arguments_of(request, settings, await base64_texts(self._blobs, wanted_blobs(request, settings)))
        with call.port_errors(sdk_errors()):
            create: Any = self._client(base_url, key).chat.completions.create  # its overloads name every field
            stream = await call.open(create, arguments, call_headers(request.headers, key))
            try:
                builder = TurnBuilder()
                async for chunk in call.events(stream):
                    for delta in builder.feed(chunk):
                        yield delta
                turn = builder.turn()
            finally:
                await close_stream(stream)
        yield turn

    async def close(self) -> None:
        self._clients.clear()
        if self._http is not None:
            await self._http.aclose()

    def _client(self, base_url: str, key: str) -> "AsyncOpenAI":
        """One per address and key, over one connection pool."""
        return self._clients.get(base_url, key, lambda: make_client(self._settings, base_url, key, self._http))

    def _usable_key(self) -> str:
        """Empty where none is needed and none is there."""
        key = self._key()
        if not self._settings.key_needed and not (key or "").strip():
            return ""
        return usable_key(key, self._settings.key_name, self._settings.provider)

    def _tidied(self, base_url: str) -> str:
        return tidied(base_url, self._settings)
