"""What can go wrong between a client and the daemon.

    ClientError                     exit 1
    ├── InvalidError                exit 2   the request, or the file it carries, is wrong
    ├── NotFoundError               exit 1
    ├── ConflictError               exit 1   somebody else, or an earlier request, was first
    ├── PreconditionError           exit 1   right request, wrong moment or machine
    ├── RefusedError                exit 6   who you are, or your quota, does not allow it
    ├── UnsupportedError            exit 1   this daemon cannot do it
    ├── InternalError               exit 1   the daemon failed; its log has the details
    ├── ProtocolError               exit 1   the daemon's answer cannot be understood
    ├── JobWaitsError               exit 4   the job waits for a person
    └── UnreachableError            exit 7
        ├── SocketMissingError               no socket: not installed, not started, another path
        ├── SocketForbiddenError             a socket that you may not open
        ├── DaemonDownError                  a socket that nobody listens to
        └── ConnectionLostError              the daemon was there and went away; has `last_seq`

Nothing here imports gRPC, so that whoever catches pays nothing for it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar


class ClientError(Exception):
    """Something a person can be told: what was wrong, where, and what to do.

    `reason` is the daemon's stable snake_case reason, or the client's own. `metadata` are google.rpc.ErrorInfo's
    fields. `exit_code` is what perstackctl ends with.
    """

    exit_code: ClassVar[int] = 1
    default_reason: ClassVar[str] = "client_error"

    def __init__(self, message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata: Mapping[str, str] = MappingProxyType(dict(metadata or {}))


class InvalidError(ClientError):
    """The request, or the file it carries, is wrong."""

    exit_code = 2
    default_reason = "invalid"


class NotFoundError(ClientError):
    """There is no such thing, or it is not yours to see."""

    default_reason = "not_found"


class ConflictError(ClientError):
    """Somebody else, or an earlier request with the same key, was first."""

    default_reason = "conflict"


class PreconditionError(ClientError):
    """The request is right, but not now or not on this machine."""

    default_reason = "precondition"


class RefusedError(ClientError):
    """Who you are, or your quota, does not allow it."""

    exit_code = 6
    default_reason = "refused"


class UnsupportedError(ClientError):
    """This daemon cannot do it."""

    default_reason = "unsupported"


class InternalError(ClientError):
    """The daemon failed; its log has the details."""

    default_reason = "internal"


class ProtocolError(ClientError):
    """The daemon's answer cannot be understood."""

    default_reason = "protocol"


class JobWaitsError(ClientError):
    """The job waits for a person's answer; it goes on when it has one."""

    exit_code = 4
    default_reason = "job_waits"


class UnreachableError(ClientError):
    """No answer from the daemon."""

    exit_code = 7
    default_reason = "unreachable"


class SocketMissingError(UnreachableError):
    """There is no socket at the address."""

    default_reason = "socket_missing"


class SocketForbiddenError(UnreachableError):
    """There is a socket, and you may not open it."""

    default_reason = "socket_forbidden"


class DaemonDownError(UnreachableError):
    """There is a socket, and nobody listens to it."""

    default_reason = "daemon_down"


class ConnectionLostError(UnreachableError):
    """The daemon went away while a job was watched. `last_seq` is the last event that was seen."""

    default_reason = "connection_lost"

    def __init__(self, message: str, *, last_seq: int) -> None:
        super().__init__(message, metadata={"seq": str(last_seq)})
        self.last_seq = last_seq
