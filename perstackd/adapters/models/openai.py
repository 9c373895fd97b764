"""OpenAI's Responses API and Chat Completions, and the many servers that speak the latter, through the vendor's SDK.

Importing the SDK costs seconds on a busy machine and 40 MiB, so it happens in a thread at the first call, or in `warm`
when the daemon starts. The daemon's key goes to the configured address and to hosts that the operator allows, to nobody
else: a definition comes from a client, and may name any base URL.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import anyio.to_thread

from perstackd.adapters.models.openai_client import (
    call_headers,
    http_client,
    make_client,
    refuses_summary,
    sdk_errors,
    summary_error,
)
from perstackd.adapters.models.openai_reasoning import reasoning_for, responses_reasoning
from perstackd.adapters.models.openai_request import arguments_of, wanted_blobs
from perstackd.adapters.models.openai_responses_request import (
    response_arguments,
    wanted_response_blobs,
    without_summary,
)
from perstackd.adapters.models.openai_responses_turn import ResponseBuilder
from perstackd.adapters.models.openai_settings import OpenAiSettings, speaks_responses, tidied
from perstackd.adapters.models.openai_turn import TurnBuilder
from perstackd.adapters.models.provider_access import ClientCache, allowed_base_url, usable_key
from perstackd.adapters.models.provider_call import ProviderCall, SdkStream, close_stream
from perstackd.adapters.models.shown_blobs import base64_texts
from perstackd.domain.messages import JsonObject, ModelEvent, ModelRequest, TextDelta, ThinkingDelta, Turn
from perstackd.domain.provider_tools import notes
from perstackd.ports.event_store import Blobs

if TYPE_CHECKING:
    from httpx2 import AsyncClient
    from openai import AsyncOpenAI


class _Builder(Protocol):
    """Makes a turn of the events of one protocol."""

    finished: bool

    def feed(self, event: Any) -> tuple[TextDelta | ThinkingDelta, ...]: ...

    def turn(self) -> Turn: ...


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One call in one of the two protocols. `create` is Any: the SDK's overloads name every field."""

    create: Any
    arguments: JsonObject
    builder: _Builder
    notes: tuple[str, ...]


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
        self._summaries = True

    def check_key(self) -> None:
        """Raises DENIED `model_key_missing`, as a request would."""
        self._usable_key()

    async def warm(self) -> None:
        """Import the SDK and make the HTTP client, in a thread. Idempotent."""
        async with self._loading:
            if self._http is None:
                self._http = await anyio.to_thread.run_sync(http_client, self._settings)

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        settings = self._settings
        key = self._usable_key()
        base_url = allowed_base_url(request.base_url, settings.base_url, settings.allowed_hosts, self._tidied)
        call = ProviderCall(request, key)
        await self.warm()
        client = self._client(base_url, key)
        exchange = await (self._responses if speaks_responses(settings, base_url) else self._chat)(client, request)
        with call.port_errors(sdk_errors()):
            stream = await self._opened(call, exchange, call_headers(request.headers, key))
            try:
                async for event in call.events(stream):
                    for delta in exchange.builder.feed(event):
                        yield delta
                    if exchange.builder.finished:
                        break
                turn = exchange.builder.turn()
            finally:
                await close_stream(stream)
        yield replace(turn, notes=exchange.notes)

    async def close(self) -> None:
        self._clients.clear()
        if self._http is not None:
            await self._http.aclose()

    async def _chat(self, client: "AsyncOpenAI", request: ModelRequest) -> "_Exchange":
        settings = self._settings
        blobs = await base64_texts(self._blobs, wanted_blobs(request, settings))
        reasoning = reasoning_for(settings.dialect, request.model, request.reasoning, tools=bool(request.tools))
        arguments = arguments_of(request, settings, blobs)
        notes = _notes(reasoning.note, request, has=())
        return _Exchange(client.chat.completions.create, arguments, TurnBuilder(), notes)

    async def _responses(self, client: "AsyncOpenAI", request: ModelRequest) -> "_Exchange":
        settings = self._settings
        blobs = await base64_texts(self._blobs, wanted_response_blobs(request, settings))
        reasoning = responses_reasoning(request.model, request.reasoning)
        arguments = response_arguments(request, settings, blobs, summaries=self._summaries)
        notes = _notes(reasoning.note, request, has=None)
        return _Exchange(client.responses.create, arguments, ResponseBuilder(settings.provider), notes)

    async def _opened(self, call: ProviderCall, exchange: "_Exchange", headers: dict[str, Any]) -> SdkStream[Any]:
        """An account that was not verified is refused summaries of what is reasoned: then they are not asked for."""
        try:
            return await call.open(exchange.create, exchange.arguments, headers)
        except summary_error() as error:
            if not (self._summaries and refuses_summary(error)):
                raise
            self._summaries = False
            return await call.open(exchange.create, without_summary(exchange.arguments), headers)

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


def _notes(reasoning: str, request: ModelRequest, has: tuple[str, ...] | None) -> tuple[str, ...]:
    """What the API is asked for in another form than the request has it, or not at all."""
    return (*((reasoning,) if reasoning else ()), *notes(request, has))
