"""Makes clients of OpenAI's SDK. Only modules of this name import it, and only when a provider of it is used.

The SDK takes an organisation, a project and headers from the environment and would send them to whatever server is
configured; here nothing is sent that was not passed in.
"""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from perstackd.adapters.models.openai_settings import Dialect, OpenAiSettings, WireApi
from perstackd.adapters.models.provider_call import SdkErrors
from perstackd.adapters.models.provider_errors import Failure, retry_after_ms
from perstackd.adapters.models.provider_turn import BrokenStreamError

if TYPE_CHECKING:
    from httpx2 import AsyncClient
    from openai import AsyncOpenAI
    from openai._streaming import ServerSentEvent

_NO_KEY = "none"


def http_client(settings: OpenAiSettings) -> "AsyncClient":
    """Load all of the SDK that a call needs; blocking. Follows no redirect: it would take the key along to wherever it
    points.
    """
    import openai

    http = openai.DefaultAsyncHttpxClient(follow_redirects=False)
    _sdk_classes()
    client = openai.AsyncOpenAI(api_key=_NO_KEY, base_url="http://127.0.0.1/v1", http_client=http)
    _ = client.chat.completions  # the SDK imports its parts at their first use
    if settings.dialect in (Dialect.OPENAI, Dialect.AZURE) or settings.api is WireApi.RESPONSES:
        _ = client.responses
        _first_event()
    return http


def _first_event() -> None:
    """The SDK makes what it needs to read events at the first one, for almost half a second."""
    from openai._models import construct_type
    from openai.types.responses import ResponseStreamEvent

    construct_type(type_=ResponseStreamEvent, value={"type": "response.queued"})


def make_client(settings: OpenAiSettings, base_url: str, key: str, http: "AsyncClient | None") -> "AsyncOpenAI":
    """A client over `http`. The run worker has the retry loop, the SDK has none."""
    plain, azure = _sdk_classes()
    client: AsyncOpenAI
    if settings.deployments:
        client = azure(
            api_key=key,
            azure_endpoint=base_url,
            api_version=settings.api_version,
            max_retries=0,
            http_client=http,
        )
    else:
        client = plain(api_key=key or _NO_KEY, base_url=base_url, max_retries=0, http_client=http)
    client.organization = client.project = client.admin_api_key = None
    client._custom_headers = {}  # OPENAI_CUSTOM_HEADERS of the environment; nothing public says no to it
    return client


def call_headers(headers: tuple[tuple[str, str], ...], key: str) -> dict[str, Any]:
    """The headers of a request. Without a key there is none that would claim to have one."""
    import openai

    own = dict(headers)
    named = any(name.lower() == "authorization" for name in own)
    return own if key or named else {"Authorization": openai.omit, **own}


def sdk_errors() -> SdkErrors:
    """What this SDK raises."""
    from openai import APIConnectionError, APIError, APITimeoutError

    return SdkErrors(APIError, APIConnectionError, APITimeoutError, _failure)


def summary_error() -> type[Exception]:
    """What the SDK raises for a request that is refused."""
    from openai import BadRequestError

    return BadRequestError


def refuses_summary(error: Any) -> bool:
    """Whether it is the summary of the reasoning alone that is refused."""
    return bool(error.param == "reasoning.summary")


@cache
def _sdk_classes() -> "tuple[Any, Any]":
    """The SDK's two clients, made to tell a stream that ended from one that only stopped.

    A stream ends with `[DONE]`, at which the SDK stops reading, or with an event after which nobody reads on; the SDK
    also stops, and says nothing, when the connection was closed in good order before.
    """
    from openai import AsyncAzureOpenAI, AsyncOpenAI
    from openai._streaming import SSEDecoder

    class Decoder(SSEDecoder):
        async def aiter_bytes(self, iterator: AsyncIterator[bytes]) -> "AsyncIterator[ServerSentEvent]":
            async for event in super().aiter_bytes(iterator):
                yield event
            raise BrokenStreamError("it ended before its last event")

    class Plain(AsyncOpenAI):
        def _make_sse_decoder(self) -> Decoder:
            return Decoder()

    class Azure(AsyncAzureOpenAI):
        def _make_sse_decoder(self) -> Decoder:
            return Decoder()

    return Plain, Azure


def _failure(error: Any) -> Failure | None:
    """What the provider said, with a status of its own or within the stream, where its code may be a status."""
    code, response, status = str(error.code or ""), getattr(error, "response", None), getattr(error, "status_code", 200)
    if status == 200 and re.fullmatch("[45][0-9][0-9]", code):
        status = int(code)
    retry = None if response is None else retry_after_ms(response.headers, datetime.now(UTC))
    return Failure(status, str(error.type or ""), _words(error), retry, code)


def _words(error: Any) -> str:
    """The message alone where the SDK shows all of the answer; a page of HTML is nobody's words."""
    said = error.body.get("message") if isinstance(error.body, dict) else error.body
    return said if isinstance(said, str) and said and not said.lstrip().startswith("<") else str(error.message)
