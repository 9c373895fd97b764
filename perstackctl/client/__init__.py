"""The typed client library of perstackd: `async with Client(address) as client:`.

Errors are here at once; `Client` and the values are imported when they are first asked for, because gRPC costs 0.1 s
and a command line that only prints its help must not pay for it.
"""

import importlib
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

if TYPE_CHECKING:
    from perstackctl.client.client import Client
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
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "client" if name == "Client" else "values"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
