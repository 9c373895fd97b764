"""One table from kinds of errors to gRPC codes, and the interceptor that applies it to every method.

A PerstackError becomes its code with google.rpc.ErrorInfo (domain "perstack", the stable reason, the fields). So does a
request that cannot be parsed. All else becomes INTERNAL with a log id and no text: a class name or a traceback never
crosses the wire.
"""

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, NoReturn, cast

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from perstackd.app.unforeseen import unforeseen
from perstackd.domain.errors import Kind, PerstackError
from perstackd.ports.clock import Clock

DOMAIN: Final = "perstack"
CODES: Final[dict[Kind, int]] = {
    Kind.INVALID: code_pb2.INVALID_ARGUMENT,
    Kind.NOT_FOUND: code_pb2.NOT_FOUND,
    Kind.ALREADY_EXISTS: code_pb2.ALREADY_EXISTS,
    Kind.CONFLICT: code_pb2.ABORTED,
    Kind.PRECONDITION: code_pb2.FAILED_PRECONDITION,
    Kind.DENIED: code_pb2.PERMISSION_DENIED,
    Kind.UNAUTHENTICATED: code_pb2.UNAUTHENTICATED,
    Kind.EXHAUSTED: code_pb2.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: code_pb2.UNAVAILABLE,
    Kind.TIMEOUT: code_pb2.DEADLINE_EXCEEDED,
    Kind.CANCELLED: code_pb2.CANCELLED,
    Kind.UNSUPPORTED: code_pb2.UNIMPLEMENTED,
    Kind.INTERNAL: code_pb2.INTERNAL,
}
_TRAILER_ROOM: Final = 6 << 10
"""Bytes for a message: peers refuse trailers of more than 8 KiB at random, and the error would be lost with them."""
_MAX_FIELD: Final = 256
_MAX_FIELDS: Final = 4


def status_of(error: PerstackError) -> status_pb2.Status:
    """The error as it crosses the wire."""
    fields = {name: _sendable(text)[:_MAX_FIELD] for name, text in list(error.fields.items())[:_MAX_FIELDS]}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=fields)
    if error.retryable:
        info.metadata["retryable"] = "true"
    detail = any_pb2.Any()
    detail.Pack(info)
    return status_pb2.Status(code=CODES[error.kind], message=_fitting(_sendable(error.message)), details=[detail])


def _sendable(text: str) -> str:
    """Without what UTF-8 does not have: names of files may hold it, and protobuf would refuse the whole error."""
    return text.encode("utf-8", "replace").decode()


def _fitting(message: str) -> str:
    """The message, cut when its two forms in the trailers are too long: percent-encoded, and in the details."""
    size = 0
    for place, character in enumerate(message):
        length = len(character.encode())
        plain = " " <= character <= "~" and character != "%"
        size += (1 if plain else 3 * length) + -(-4 * length // 3)
        if size > _TRAILER_ROOM:
            return f"{message[: place - 1]}…"
    return message


class _Malformed:
    """Stands for a request that is no message: gRPC would answer with the text and class of what a parser raises."""


def _parsing(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        try:
            return deserializer(data) if deserializer is not None else data
        except (DecodeError, ValueError):
            return _Malformed()

    return parse


def _checked(request: Any) -> Any:
    """The request, or the requests of a stream. Raises PerstackError INVALID `message_malformed`."""
    if isinstance(request, AsyncIterable):
        return _each_checked(request)
    if isinstance(request, _Malformed):
        message = "the request is no message of this API; make the client from the API's own .proto files"
        raise PerstackError(Kind.INVALID, "message_malformed", message)
    return request


async def _each_checked(requests: AsyncIterable[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps unary and streaming handlers alike, also when they fail in the middle of a stream."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The handler, wrapped; unknown methods pass."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        coders = (_parsing(handler.request_deserializer), handler.response_serializer)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary), *coders)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self._streaming(handler.unary_stream), *coders)
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(self._unary(handler.stream_unary), *coders)
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(self._streaming(handler.stream_stream), *coders)
        return handler

    def _streaming(self, behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Some stream as generators, and gRPC's own health checks as coroutines that write to the context."""
        return self._unary(behaviour) if inspect.iscoroutinefunction(behaviour) else self._stream(behaviour)

    def _unary(self, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def wrapped(request: Any, context: Any) -> Any:
            try:
                return await behaviour(_checked(request), context)
            except (PerstackError, Exception) as error:
                await self._abort(context, error)

        return wrapped

    def _stream(self, behaviour: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def wrapped(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                replying = behaviour(_checked(request), context)
                async with aclosing(cast("AsyncGenerator[Any, None]", replying)) as replies:
                    async for reply in replies:
                        yield reply
            except Exception as error:
                await self._abort(context, error)

        return wrapped

    async def _abort(self, context: Any, error: Exception) -> NoReturn:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if not isinstance(error, PerstackError):
            told = unforeseen(self._clock, error)
            error = PerstackError(Kind.INTERNAL, "internal", told.message, fields={"log_id": told.log_id})
        await context.abort_with_status(rpc_status.to_status(status_of(error)))
        raise AssertionError("abort returns never")
