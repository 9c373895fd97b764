"""The typed client library of perstackd: `async with Client(address) as client:`.

`Client` is imported when it is first asked for, because gRPC costs 0.1 s; errors and values cost nothing.
"""

from typing import TYPE_CHECKING, Any

from perstackctl.client.errors import (
    ClientError,
    ConflictError,
    ConnectionLostError,
    DaemonDownError,
    InternalError,
    InvalidError,
    JobWaitsError,
    NotFoundError,
    PreconditionError,
    ProtocolError,
    RefusedError,
    SocketForbiddenError,
    SocketMissingError,
    UnreachableError,
    UnsupportedError,
)
from perstackctl.client.values import (
    Batch,
    CreatedJob,
    Definition,
    Event,
    Finding,
    Info,
    Job,
    JobRequest,
    JobState,
    Pool,
    Posture,
    PostureCheck,
    Resolution,
    ResolvedExpert,
    Run,
    Sandbox,
    SandboxState,
    Severity,
    StreamPiece,
    Usage,
    Workspace,
    WorkspaceKind,
)

if TYPE_CHECKING:
    from perstackctl.client.client import Client

__all__ = [
    "Batch",
    "Client",
    "ClientError",
    "ConflictError",
    "ConnectionLostError",
    "CreatedJob",
    "DaemonDownError",
    "Definition",
    "Event",
    "Finding",
    "Info",
    "InternalError",
    "InvalidError",
    "Job",
    "JobRequest",
    "JobState",
    "JobWaitsError",
    "NotFoundError",
    "Pool",
    "Posture",
    "PostureCheck",
    "PreconditionError",
    "ProtocolError",
    "RefusedError",
    "Resolution",
    "ResolvedExpert",
    "Run",
    "Sandbox",
    "SandboxState",
    "Severity",
    "SocketForbiddenError",
    "SocketMissingError",
    "StreamPiece",
    "UnreachableError",
    "UnsupportedError",
    "Usage",
    "Workspace",
    "WorkspaceKind",
]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from perstackctl.client.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
