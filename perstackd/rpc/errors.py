"""One table from kinds of errors to gRPC codes, and the interceptor that applies it to every method.

A PerstackError becomes its code with google.rpc.ErrorInfo (domain "perstack", the stable reason, the fields). All else
becomes INTERNAL with a log id and no text: a class name or a traceback never crosses the wire.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

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
_MAX_MESSAGE: Final = 4096  # trailers share a bound of 8 KiB with everything else in them

_log = structlog.get_logger()


def status_of(error: PerstackError) -> status_pb2.Status:
    """The error as it crosses the wire."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=dict(error.fields))
    if error.retryable:
        info.metadata["retryable"] = "true"
    detail = any_pb2.Any()
    detail.Pack(info)
    return status_pb2.Status(code=CODES[error.kind], message=error.message[:_MAX_MESSAGE], details=[detail])


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
        if handler is None or handler_call_details.method.startswith("/grpc."):
            return handler
        coders = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary), *coders)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self._stream(handler.unary_stream), *coders)
        return handler

    def _unary(self, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def wrapped(request: Any, context: Any) -> Any:
            try:
                return await behaviour(request, context)
            except (PerstackError, Exception) as error:
                await self._abort(context, error)

        return wrapped

    def _stream(self, behaviour: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def wrapped(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async for reply in behaviour(request, context):
                    yield reply
            except Exception as error:
                await self._abort(context, error)

        return wrapped

    async def _abort(self, context: Any, error: Exception) -> NoReturn:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if not isinstance(error, PerstackError):
            log_id = self._clock.new_id()
            _log.error("request failed unexpectedly", log_id=log_id, exc_info=error)
            message = f"an internal error; the daemon's log has it under {log_id}"
            error = PerstackError(Kind.INTERNAL, "internal", message, fields={"log_id": log_id})
        await context.abort_with_status(rpc_status.to_status(status_of(error)))
        raise AssertionError("abort returns never")
