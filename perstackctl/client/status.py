"""A failed call as an error of ours: its gRPC code, and google.rpc.ErrorInfo when the daemon sent one."""

from collections.abc import Mapping
from typing import Final

import grpc

from perstackctl.client import errors

_KINDS: Final[Mapping[grpc.StatusCode, type[errors.ClientError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidError,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: errors.ConflictError,
    grpc.StatusCode.ABORTED: errors.ConflictError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.PreconditionError,
    grpc.StatusCode.PERMISSION_DENIED: errors.RefusedError,
    grpc.StatusCode.UNAUTHENTICATED: errors.RefusedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.RefusedError,
    grpc.StatusCode.UNIMPLEMENTED: errors.UnsupportedError,
    grpc.StatusCode.UNAVAILABLE: errors.UnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.UnreachableError,
}


def from_rpc(error: grpc.aio.AioRpcError) -> errors.ClientError:
    """The error that a failed call means."""
    kind = _KINDS.get(error.code(), errors.InternalError)
    reason, metadata = _error_info(error)
    message = error.details() or "no details"
    if reason:
        return kind(message, reason=reason, metadata=metadata)
    return kind(_explained(error.code(), message))


def _explained(code: grpc.StatusCode, message: str) -> str:
    """A sentence for what did not come from the daemon's own error table."""
    match code:
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return "the daemon did not answer in time; see its log (journalctl -u perstackd)"
        case grpc.StatusCode.UNIMPLEMENTED:
            return "this daemon does not know the request; it is older than this perstackctl (perstackctl system info)"
        case grpc.StatusCode.UNAVAILABLE:
            return f"the connection to the daemon broke ({message}); try again"
        case grpc.StatusCode.INTERNAL | grpc.StatusCode.UNKNOWN | grpc.StatusCode.DATA_LOSS:
            return f"the daemon failed ({message}); its log has the details (journalctl -u perstackd)"
        case _:
            return message


def _error_info(error: grpc.aio.AioRpcError) -> tuple[str, Mapping[str, str]]:
    # Imported here: 40 ms that only a failure has to pay.
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it has the three methods that are used
    except ValueError:  # the details contradict the status: do not trust them
        return "", {}
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    return "", {}
