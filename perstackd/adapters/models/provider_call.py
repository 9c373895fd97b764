"""One streamed call of a provider's SDK: its deadline, its end, and its failures as the port's errors.

The SDKs come from one generator: their exceptions have the same names, and the HTTP client below them is the same.
Used by the adapters of the providers, which say what is their own in `SdkErrors`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlsplit

import anyio

from perstackd.adapters.models.provider_errors import Failure, from_failure, model_error
from perstackd.adapters.models.provider_turn import BrokenStreamError, FailedTurnError
from perstackd.domain.errors import PerstackError
from perstackd.domain.messages import JsonObject, ModelRequest

CONNECT_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 2.0

Event_co = TypeVar("Event_co", covariant=True)


class SdkStream(Protocol[Event_co]):
    """A response that is being read."""

    def __aiter__(self) -> AsyncIterator[Event_co]: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SdkErrors:
    """The exceptions of an SDK. `failure` gives what the provider itself said, or None if an error is none of its."""

    anything: type[Exception]
    connection: type[Exception]
    timeout: type[Exception]
    failure: Callable[[Any], Failure | None]


class ProviderCall:
    """A call from its start, at which the request's time begins to run, to the end of its stream."""

    def __init__(self, request: ModelRequest, key: str) -> None:
        self._request = request
        self._key = key
        self._deadline = anyio.current_time() + request.timeout_ms / 1000
        self._opened = False

    async def open(
        self, create: Callable[..., Awaitable[SdkStream[Event_co]]], arguments: JsonObject, headers: dict[str, Any]
    ) -> SdkStream[Event_co]:
        """Send the request and wait for the response's head."""
        from httpx2 import Timeout

        left = max(0.001, self._deadline - anyio.current_time())
        timeout = Timeout(left, connect=min(left, CONNECT_SECONDS))
        with anyio.fail_after(left):
            stream = await create(**arguments, stream=True, extra_headers=headers, timeout=timeout)
        self._opened = True
        return stream

    async def events(self, stream: SdkStream[Event_co]) -> AsyncIterator[Event_co]:
        """Each wait ends at the deadline; no cancel scope is held while the consumer works."""
        iterator = aiter(stream)
        while True:
            with anyio.fail_after(max(0.0, self._deadline - anyio.current_time())):
                event = await anext(iterator, None)
            if event is None:
                return
            yield event

    @contextmanager
    def port_errors(self, sdk: SdkErrors) -> Iterator[None]:
        """Every way in which a call breaks becomes an error of the port."""
        try:
            yield
        except Exception as error:
            mapped = self._mapped(error, sdk)
            if mapped is error:
                raise
            # A provider may repeat the key in what it says; then nobody is shown where the error came from.
            raise mapped from (None if self._key and self._key in str(error) else error)

    def _mapped(self, error: Exception, sdk: SdkErrors) -> Exception:
        """Only what is no failure of a call stays what it is."""
        from httpx2 import HTTPError, InvalidURL, TimeoutException

        model = self._request.model
        if isinstance(error, PerstackError):
            return error
        if isinstance(error, sdk.timeout | TimeoutException | TimeoutError):
            return model_error(
                "model_timeout", f"The model {model!r} did not finish within {self._request.timeout_ms} ms."
            )
        if isinstance(error, BrokenStreamError):
            return model_error("model_stream_broken", f"The stream of the model {model!r} is broken: {error}.")
        if isinstance(error, FailedTurnError):
            return from_failure(_without(error.failure, self._key), model)
        if isinstance(error, InvalidURL) or (isinstance(error, sdk.connection) and not self._opened):
            return self._unreachable(error)
        if isinstance(error, sdk.anything) and (failure := sdk.failure(error)) is not None:
            return from_failure(_without(failure, self._key), model)
        # JSON and Unicode errors of a damaged frame are ValueErrors; the SDKs let them through as they are.
        if isinstance(error, HTTPError | sdk.anything | ValueError | EOFError | OSError):
            what = f"The stream of the model {model!r} was cut or damaged ({type(error).__name__})."
            return model_error("model_stream_broken", what)
        return error

    def _unreachable(self, error: Exception) -> PerstackError:
        cause = type(error.__cause__ or error).__name__
        where = urlsplit(self._request.base_url).netloc or "the provider"
        what = f"{where} cannot be reached for the model {self._request.model!r} ({cause})."
        return model_error("model_unreachable", what)


async def close_stream(stream: SdkStream[Any]) -> None:
    """End a call, also while it is being cancelled."""
    with anyio.move_on_after(CLOSE_SECONDS, shield=True):
        await stream.close()


def _without(failure: Failure, key: str) -> Failure:
    detail = failure.detail.replace(key, "***") if key else failure.detail
    return Failure(failure.status, failure.type, detail, failure.retry_after_ms, failure.code)
