"""The HTTP client of remote skills: through the sandbox's way out, every wait and every size bounded, causes in words.

The SDK's transports decide what is sent and when; this stands below them, where bytes are.
"""

import http
import json
import re
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Final, NamedTuple

import anyio
import httpx2

from perstack_runner import VERSION
from perstack_runner.messages import Remote

MAX_BODY_BYTES: Final = 16 << 20
MAX_ERROR_BYTES: Final = 64 << 10
CONNECT_SECONDS: Final = 15.0
SEND_SECONDS: Final = 60.0
ACCEPT_SECONDS: Final = 30.0
"""Until a server has taken a message that it need not answer: the SDK sends nothing else meanwhile."""
LEAVE_SECONDS: Final = 1.0
STREAM_SECONDS: Final = 0.5
"""Between two openings of an event stream: how soon to come back is the server's to say, but not to abuse."""
MAX_WORN: Final = 8
_SESSION: Final = "mcp-session-id"
_HOST: Final = re.compile(r"[a-z0-9_.-]+|[0-9a-f:.]+")
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class UnreachableError(ValueError):
    """A cause in words; the connection is of no use any more."""


class _BrokenError(httpx2.StreamError):
    """A cause in words, of one answer: the SDK fails the request and keeps the connection."""


class Way(NamedTuple):
    """How to reach hosts: the port of the proxy, and a file with the operator's CAs, or "" for the image's."""

    proxy_port: int
    ca_file: str


def checked(remote: Remote) -> httpx2.URL:
    """The endpoint. Raises ValueError with the remedy; what a header's value holds is not told."""
    try:
        url = httpx2.URL(remote.endpoint)
    except (httpx2.InvalidURL, UnicodeError):
        raise ValueError("its endpoint is no URL; write https://HOST/PATH") from None
    if not _HOST.fullmatch(url.host):
        raise ValueError("its endpoint is no URL; write https://HOST/PATH")
    if not (url.scheme == "https" or (url.scheme == "http" and url.host in _LOOPBACK)):
        raise ValueError("its endpoint has to begin with https://")
    if url.userinfo:
        raise ValueError("its endpoint must not hold a user or password; use headers")
    if remote.transport not in ("sse", "http"):
        raise ValueError(f"{remote.transport[:40]}: no transport of that name; there are sse and http")
    for name, value in remote.headers:
        if not name.isascii() or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ValueError(f"{name[:100]!r} is no name of a header")
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"the value of its header {name[:100]} holds characters that a header cannot carry")
    return url


def tls_context(way: Way) -> ssl.SSLContext:
    """With the operator's CAs when the sandbox has them. Reads files: not on the loop. Raises ValueError."""
    try:
        return ssl.create_default_context(cafile=way.ca_file or None)
    except OSError as error:
        raise ValueError(
            f"the CA bundle of SSL_CERT_FILE cannot be read: {error.strerror or 'no certificates'}"
        ) from None


class Client(NamedTuple):
    """For one connection to one server."""

    http: httpx2.AsyncClient
    transport: "BoundedTransport"


def client(remote: Remote, url: httpx2.URL, way: Way, context: ssl.SSLContext) -> Client:
    """Takes nothing from the environment and follows no redirect by itself."""
    proxy = None if url.scheme == "http" else httpx2.Proxy(f"http://127.0.0.1:{way.proxy_port}")
    limits = httpx2.Limits(max_connections=64, max_keepalive_connections=8, keepalive_expiry=30.0)
    inner = httpx2.AsyncHTTPTransport(verify=context, proxy=proxy, trust_env=False, limits=limits)
    transport = BoundedTransport(inner, sse=remote.transport == "sse")
    headers = httpx2.Headers({"user-agent": f"perstack-runner/{VERSION}"})
    headers.update(dict(remote.headers))
    headers["accept-encoding"] = "identity"  # what is compressed has no size before it was taken into memory
    return Client(httpx2.AsyncClient(transport=transport, headers=headers, trust_env=False), transport)


class BoundedTransport(httpx2.AsyncBaseTransport):
    """Hands requests on. `lost` is set when the server does not know the session; `open_calls` counts unread answers.

    `broken` holds the cause once a message of an SSE connection could not be sent: nobody above would notice.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport, *, sse: bool) -> None:
        self._inner = inner
        self._sse = sse
        self._next_stream = 0.0
        self.lost = False
        self.open_calls = 0
        self.broken = ""
        self.on_broken = anyio.Event()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises UnreachableError."""
        is_call = not self._sse and _is_request(request)
        request.extensions = {**request.extensions, "timeout": self._timeout(request, is_call=is_call)}
        if request.method == "GET":
            await self._pace()
        self.open_calls += is_call
        try:
            response = await self._answered(request)
        except BaseException as error:
            self.open_calls -= is_call
            if isinstance(error, UnreachableError) and self._sse and request.method == "POST":
                self._break(str(error))
            raise
        return self._bounded(response, is_call=is_call)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _timeout(self, request: httpx2.Request, *, is_call: bool) -> dict[str, float | None]:
        if request.method == "DELETE":
            return dict.fromkeys(("connect", "read", "write", "pool"), LEAVE_SECONDS)
        # Calls and event streams may be silent for long: the time-outs of calls and of the start are above.
        read = None if is_call or request.method == "GET" else ACCEPT_SECONDS
        return {"connect": CONNECT_SECONDS, "read": read, "write": SEND_SECONDS, "pool": CONNECT_SECONDS}

    async def _pace(self) -> None:
        now = anyio.current_time()
        due, self._next_stream = self._next_stream, max(now, self._next_stream) + STREAM_SECONDS
        await anyio.sleep(max(0.0, due - now))

    async def _answered(self, request: httpx2.Request) -> httpx2.Response:
        try:
            with anyio.fail_after(LEAVE_SECONDS if request.method == "DELETE" else None):
                response = await self._inner.handle_async_request(request)
        except httpx2.HTTPError as error:
            raise UnreachableError(in_words(error, request.url.host)) from None
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise UnreachableError("its server compresses its answers, though it was asked not to")
        if response.status_code < 400 and not (self._sse and response.is_redirect and request.method == "POST"):
            return response
        return await self._refused(request, response)

    async def _refused(self, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        """A refusal that says why: the SDK shows the error of a JSON-RPC body, and no status."""
        body = await _read_some(response)
        cause = f"its server answered HTTP {_status(response.status_code)}"
        if self._sse:
            raise UnreachableError(cause)
        if request.method != "POST":
            return httpx2.Response(response.status_code, headers=_plain(response), content=body)
        if _SESSION in request.headers and response.status_code in (400, 404):
            self.lost = True
        if not _is_error(body):
            code = -32601 if response.status_code == 404 else -32603
            body = json.dumps({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": cause}}).encode()
        return httpx2.Response(response.status_code, headers={"content-type": "application/json"}, content=body)

    def _bounded(self, response: httpx2.Response, *, is_call: bool) -> httpx2.Response:
        def closed() -> None:
            self.open_calls -= is_call

        stream = response.stream
        if not isinstance(stream, httpx2.AsyncByteStream):
            raise TypeError("an asynchronous transport answers with an asynchronous stream")
        events = response.headers.get("content-type", "").lower().startswith("text/event-stream")
        limited = _BoundedStream(stream, None if events else MAX_BODY_BYTES, closed)
        return httpx2.Response(
            response.status_code, headers=response.headers, stream=limited, extensions=response.extensions
        )

    def _break(self, why: str) -> None:
        self.broken = self.broken or why
        self.on_broken.set()


class _BoundedStream(httpx2.AsyncByteStream):
    """A body of at most `limit` bytes, or any number when None: of events each is bounded by whoever parses them."""

    def __init__(self, inner: httpx2.AsyncByteStream, limit: int | None, closed: Callable[[], None]) -> None:
        self._inner = inner
        self._limit = limit
        self._closed: Callable[[], None] | None = closed

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for part in self._inner:
                size += len(part)
                if self._limit is not None and size > self._limit:
                    raise _BrokenError(f"the answer is over {self._limit >> 20} MiB")
                yield part
        except httpx2.HTTPError as error:
            raise _BrokenError(in_words(error, "its server")) from None

    async def aclose(self) -> None:
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()
        await self._inner.aclose()


def in_words(error: httpx2.HTTPError, host: str) -> str:
    """What happened, without what an exception's text may hold: addresses with their queries, headers."""
    match error:
        case httpx2.ProxyError():
            return f"{host}: the sandbox's way out refused it: {str(error)[:300]}"
        case httpx2.ConnectTimeout() | httpx2.PoolTimeout():
            return f"{host}: no connection within {CONNECT_SECONDS:.0f} s"
        case httpx2.TimeoutException():
            return f"{host}: no answer in time"
        case httpx2.ConnectError() if "certificate" in str(error).lower():
            return f"{host}: its certificate is not accepted: {str(error).partition('(')[0][:200].strip()}"
        case httpx2.ConnectError():
            return f"{host}: no connection could be made"
        case httpx2.LocalProtocolError():
            return f"{host}: the request cannot be sent; look at the headers"
        case httpx2.RemoteProtocolError():
            return f"{host}: it closed the connection or does not speak HTTP"
        case _:
            return f"{host}: the connection broke"


def _is_request(request: httpx2.Request) -> bool:
    """Whether the body is a JSON-RPC message that asks for an answer."""
    if request.method != "POST":
        return False
    message = json.loads(request.content)
    return isinstance(message, dict) and "id" in message and "method" in message


def _is_error(body: bytes) -> bool:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return False
    error = message.get("error") if isinstance(message, dict) else None
    return isinstance(error, dict) and isinstance(error.get("code"), int) and isinstance(error.get("message"), str)


async def _read_some(response: httpx2.Response) -> bytes:
    """The beginning of a body. Whoever asked for it bounds the time."""
    body = bytearray()
    try:
        with anyio.move_on_after(ACCEPT_SECONDS):
            async for part in response.aiter_raw():
                body += part
                if len(body) > MAX_ERROR_BYTES:
                    break
    except httpx2.HTTPError:
        body.clear()  # the status says enough
    finally:
        await response.aclose()
    return bytes(body[:MAX_ERROR_BYTES])


def _plain(response: httpx2.Response) -> dict[str, str]:
    return {"content-type": response.headers.get("content-type", "text/plain")}


def _status(code: int) -> str:
    try:
        return f"{code} {http.HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)
