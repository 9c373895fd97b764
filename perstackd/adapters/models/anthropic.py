"""Anthropic's Messages API through the vendor's SDK: the only module that imports it, and only when it is needed.

The import costs half a second and 40 MiB, so it happens in a thread at the first call, or in `warm` when the daemon
starts. The daemon's key goes to the configured address and to hosts that the operator allows, to nobody else: a
definition comes from a client, and may name any base URL.
"""

import base64
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from perstackd.adapters.models.anthropic_request import body, wanted_blobs
from perstackd.adapters.models.anthropic_turn import BrokenStreamError, TurnBuilder
from perstackd.adapters.models.provider_errors import Failure, from_failure, model_error, retry_after_ms
from perstackd.domain.errors import PerstackError
from perstackd.domain.messages import JsonObject, ModelEvent, ModelRequest
from perstackd.ports.event_store import Blobs

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic, AsyncStream
    from anthropic.types import RawMessageStreamEvent
    from httpx2 import AsyncClient

DEFAULT_BASE_URL: Final = "https://api.anthropic.com"
KEY_NAME: Final = "ANTHROPIC_API_KEY"
_CONNECT_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 2.0
_CLIENTS_KEPT: Final = 16


@dataclass(frozen=True, slots=True)
class AnthropicSettings:
    """Where the API is, and which other hosts (`name` or `name:port`) a definition's base URL may name."""

    base_url: str = DEFAULT_BASE_URL
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
        self._clients: OrderedDict[tuple[str, str], AsyncAnthropic] = OrderedDict()
        self._loading = anyio.Lock()

    async def warm(self) -> None:
        """Import the SDK and make the HTTP client, in a thread. Idempotent."""
        async with self._loading:
            if self._http is None:
                self._http = await anyio.to_thread.run_sync(_http_client)

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        key = self._checked_key()
        base_url = self._checked_base_url(request.base_url)
        deadline = anyio.current_time() + request.timeout_ms / 1000
        await self.warm()
        arguments = body(request, await self._blob_texts(request))
        with _as_port_errors(request, key):
            stream = await _open(self._client(base_url, key), request, arguments, deadline)
            try:
                builder = TurnBuilder()
                async for event in _events(stream, deadline):
                    delta = builder.feed(event)
                    if delta is not None and delta.text:
                        yield delta
                    if builder.finished:
                        break
                turn = builder.turn()
            finally:
                await _close(stream)
        yield turn

    async def close(self) -> None:
        self._clients.clear()
        if self._http is not None:
            await self._http.aclose()

    def _client(self, base_url: str, key: str) -> "AsyncAnthropic":
        """One per address and key, over one connection pool. The run worker has the retry loop, the SDK has none."""
        from anthropic import AsyncAnthropic

        client = self._clients.get((base_url, key))
        if client is None:
            client = AsyncAnthropic(api_key=key, base_url=base_url, max_retries=0, http_client=self._http)
            self._clients[base_url, key] = client
            if len(self._clients) > _CLIENTS_KEPT:
                self._clients.popitem(last=False)
        self._clients.move_to_end((base_url, key))
        return client

    def _checked_key(self) -> str:
        key = (self._key() or "").strip()
        if not key or not key.isascii() or not key.isprintable():
            state = "is damaged: it has characters that no key has" if key else "is not set"
            raise model_error("model_key_missing", f"{KEY_NAME}, the daemon's key for the provider anthropic, {state}.")
        return key

    def _checked_base_url(self, wanted: str) -> str:
        """Raises `base_url_not_allowed`."""
        own = without_api_version(self._settings.base_url)
        if not wanted or without_api_version(wanted) == own:
            return own
        parts = urlsplit(wanted)
        plain = parts.scheme not in ("http", "https") or parts.username or parts.query or parts.fragment
        host = parts.netloc.lower()
        if plain or not {host, parts.hostname} & self._settings.allowed_hosts:
            raise model_error(
                "base_url_not_allowed",
                f"The base URL's host {host[:200]!r} is not one that this daemon sends its key to.",
                {"host": host[:200]},
            )
        return without_api_version(wanted)

    async def _blob_texts(self, request: ModelRequest) -> Mapping[str, str]:
        if self._blobs is None:
            return {}
        found = {}
        for blob in wanted_blobs(request):
            data = await self._blobs.get(blob.digest)
            found[blob.digest] = (await anyio.to_thread.run_sync(base64.b64encode, data)).decode("ascii")
        return found


def without_api_version(base_url: str) -> str:
    """The address as this SDK wants it: other tools' configurations end in `/v1`, which it adds itself."""
    return base_url.rstrip("/").removesuffix("/v1").rstrip("/")


def _http_client() -> "AsyncClient":
    """Blocking. Follows no redirect: it would take the key along to wherever it points."""
    import anthropic
    import anthropic.resources.messages

    return anthropic.DefaultAsyncHttpxClient(follow_redirects=False)


async def _open(
    client: "AsyncAnthropic", request: ModelRequest, arguments: JsonObject, deadline: float
) -> "AsyncStream[RawMessageStreamEvent]":
    from httpx2 import Timeout

    left = max(0.001, deadline - anyio.current_time())
    create: Any = client.messages.create  # its overloads name every field; ours come as one mapping
    with anyio.fail_after(left):
        stream: AsyncStream[RawMessageStreamEvent] = await create(
            **arguments,
            stream=True,
            extra_headers=dict(request.headers),
            timeout=Timeout(left, connect=min(left, _CONNECT_SECONDS)),
        )
    return stream


async def _events(
    stream: "AsyncStream[RawMessageStreamEvent]", deadline: float
) -> "AsyncIterator[RawMessageStreamEvent]":
    """Each wait ends at the deadline; no cancel scope is held while the consumer works."""
    iterator = aiter(stream)
    while True:
        with anyio.fail_after(max(0.0, deadline - anyio.current_time())):
            event = await anext(iterator, None)
        if event is None:
            return
        yield event


async def _close(stream: "AsyncStream[RawMessageStreamEvent]") -> None:
    with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
        await stream.close()


@contextmanager
def _as_port_errors(request: ModelRequest, key: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        mapped = _mapped(error, request, key)
        if mapped is error:
            raise
        raise mapped from error


def _mapped(error: Exception, request: ModelRequest, key: str) -> Exception:
    """Every way in which a call breaks, as the port's errors. Only what is no failure of a call stays what it is."""
    from anthropic import APIConnectionError, APIError, APIStatusError, APITimeoutError
    from httpx2 import HTTPError, InvalidURL, TimeoutException

    model = request.model
    match error:
        case PerstackError():
            return error
        case APITimeoutError() | TimeoutException() | TimeoutError():
            what = f"The model {model!r} did not finish within {request.timeout_ms} ms."
            return model_error("model_timeout", what)
        case APIStatusError():
            return from_failure(_failure(error, key), model)
        case APIConnectionError() | InvalidURL():
            cause = type(error.__cause__ or error).__name__
            where = urlsplit(request.base_url).netloc or "the provider"
            return model_error("model_unreachable", f"{where} cannot be reached for the model {model!r} ({cause}).")
        case BrokenStreamError():
            return model_error("model_stream_broken", f"The stream of the model {model!r} is broken: {error}.")
        case HTTPError() | APIError() | ValueError() | EOFError() | OSError():
            # JSON and Unicode errors of a damaged frame are ValueErrors; the SDK lets them through as they are.
            what = f"The stream of the model {model!r} was cut or damaged ({type(error).__name__})."
            return model_error("model_stream_broken", what)
        case _:
            return error


def _failure(error: Any, key: str) -> Failure:
    detail = (error.api_message or error.message or "").replace(key, "***")
    retry = retry_after_ms(error.response.headers, datetime.now(UTC))
    return Failure(error.status_code, error.type or "", detail, retry)
