"""Anthropic's Messages API through the vendor's SDK: the only module that imports it, and only when it is needed.

The import costs half a second and 40 MiB, so it happens in a thread at the first call, or in `warm` when the daemon
starts. The daemon's key goes to the configured address and to hosts that the operator allows, to nobody else: a
definition comes from a client, and may name any base URL.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from perstackd.adapters.models.anthropic_request import body, wanted_blobs
from perstackd.adapters.models.anthropic_tools import PROVIDER
from perstackd.adapters.models.anthropic_turn import TurnBuilder
from perstackd.adapters.models.provider_access import ClientCache, allowed_base_url, usable_key
from perstackd.adapters.models.provider_call import ProviderCall, SdkErrors, close_stream
from perstackd.adapters.models.provider_errors import Failure, model_error, retry_after_ms
from perstackd.adapters.models.shown_blobs import base64_texts
from perstackd.adapters.models.thinking import mapped
from perstackd.domain.messages import Message, ModelEvent, ModelRequest, Role, Turn
from perstackd.domain.provider_tools import notes
from perstackd.ports.event_store import Blobs

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from httpx2 import AsyncClient

DEFAULT_BASE_URL: Final = "https://api.anthropic.com"
KEY_NAME: Final = "ANTHROPIC_API_KEY"
MAX_PIECES: Final = 20
"""A turn that its provider pauses is asked for in this many pieces at most; the request's time bounds it as well."""


@dataclass(frozen=True, slots=True)
class AnthropicSettings:
    """Where the API is, and which other hosts (`name` or `name:port`) a definition's base URL may name. `key_name` is
    the variable that the operator knows the key by.
    """

    base_url: str = DEFAULT_BASE_URL
    key_name: str = KEY_NAME
    allowed_hosts: frozenset[str] = frozenset()


class AnthropicModels:
    """Implements `Models`. `key` gives the API key at each call, so that a new one needs no restart.

    `blobs` is where images and documents of the history are; without it they are told of in words. Raises what the
    port lists, and DENIED `base_url_not_allowed`. A consumer that stops early closes the iterator (`aclosing`).
    """

    def __init__(
        self,
        key: Callable[[], str | None],
        settings: AnthropicSettings | None = None,
        blobs: Blobs | None = None,
    ) -> None:
        self._key = key
        self._settings = settings or AnthropicSettings()
        self._blobs = blobs
        self._http: AsyncClient | None = None
        self._clients: ClientCache[AsyncAnthropic] = ClientCache()
        self._loading = anyio.Lock()

    def check_key(self) -> None:
        """Raises DENIED `model_key_missing`, as a request would."""
        self._usable_key()

    def _usable_key(self) -> str:
        return usable_key(self._key(), self._settings.key_name, PROVIDER)

    async def warm(self) -> None:
        """Import the SDK and make the HTTP client, in a thread. Idempotent."""
        async with self._loading:
            if self._http is None:
                self._http = await anyio.to_thread.run_sync(_http_client)

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        settings = self._settings
        key = self._usable_key()
        base_url = allowed_base_url(request.base_url, settings.base_url, settings.allowed_hosts, without_api_version)
        call = ProviderCall(request, key)
        await self.warm()
        blobs = await base64_texts(self._blobs, wanted_blobs(request))
        create: Any = self._client(base_url, key).messages.create  # its overloads name every field
        said: Turn | None = None
        with call.port_errors(_sdk_errors()):
            for _ in range(MAX_PIECES):
                arguments = body(_going_on(request, said), blobs, datetime.now(UTC))
                stream = await call.open(create, arguments, dict(request.headers))
                try:
                    builder = TurnBuilder()
                    async for event in call.events(stream):
                        delta = builder.feed(event)
                        if delta is not None and delta.text:
                            yield delta
                        if builder.finished:
                            break
                    said = _joined(said, builder.turn())
                finally:
                    await close_stream(stream)
                if not builder.paused:
                    yield replace(said, notes=notes_of(request))
                    return
        what = f"The provider's own tools paused the turn of the model {request.model!r} {MAX_PIECES} times."
        raise model_error("model_answer_too_large", what)

    async def close(self) -> None:
        self._clients.clear()
        if self._http is not None:
            await self._http.aclose()

    def _client(self, base_url: str, key: str) -> "AsyncAnthropic":
        """One per address and key, over one connection pool. The run worker has the retry loop, the SDK has none."""
        from anthropic import AsyncAnthropic

        return self._clients.get(
            base_url,
            key,
            lambda: AsyncAnthropic(api_key=key, base_url=base_url, max_retries=0, http_client=self._http),
        )


def notes_of(request: ModelRequest) -> tuple[str, ...]:
    """What the API is asked for in another form than the request has it, or not at all."""
    told = mapped(request.model, request.reasoning)
    return (*((told,) if told else ()), *notes(request))


def _going_on(request: ModelRequest, said: Turn | None) -> ModelRequest:
    """What was said of a paused turn goes back as it came; then the provider goes on with it."""
    if said is None:
        return request
    return replace(request, messages=(*request.messages, Message(Role.ASSISTANT, said.parts)))


def _joined(said: Turn | None, more: Turn) -> Turn:
    """Two pieces of one turn."""
    if said is None:
        return more
    return replace(more, parts=(*said.parts, *more.parts), usage=said.usage + more.usage)


def without_api_version(base_url: str) -> str:
    """The address as this SDK wants it: other tools' configurations end in `/v1`, which it adds itself."""
    return base_url.rstrip("/").removesuffix("/v1").rstrip("/")


def _http_client() -> "AsyncClient":
    """Blocking. Follows no redirect: it would take the key along to wherever it points."""
    import anthropic
    import anthropic.resources.messages

    return anthropic.DefaultAsyncHttpxClient(follow_redirects=False)


def _sdk_errors() -> SdkErrors:
    from anthropic import APIConnectionError, APIError, APITimeoutError

    return SdkErrors(APIError, APIConnectionError, APITimeoutError, _failure)


def _failure(error: Any) -> Failure | None:
    """An error within a stream is a status error as well, with the status 200."""
    from anthropic import APIStatusError

    if not isinstance(error, APIStatusError):
        return None
    retry = retry_after_ms(error.response.headers, datetime.now(UTC))
    return Failure(error.status_code, error.type or "", error.api_message or error.message or "", retry)
