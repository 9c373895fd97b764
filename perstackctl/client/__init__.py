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
    from perstackctl.client.questions import Action, Answer, Question, QuestionKind
    from perstackctl.client.resolution import (
        Finding,
        Resolution,
        ResolvedExpert,
        ResolvedLimits,
        ResolvedSkill,
        Severity,
    )
    from perstackctl.client.running import RunningJob
    from perstackctl.client.values import (
        Batch,
        Budgets,
        CreatedJob,
        Definition,
        Event,
        Info,
        Job,
        JobRequest,
        JobState,
        Pool,
        Posture,
        PostureCheck,
        ReplayMode,
        Run,
        Sandbox,
        SandboxState,
        StreamPiece,
        Usage,
        Workspace,
        WorkspaceKind,
    )

__all__ = [
    "Action",
    "Answer",
    "Batch",
    "Budgets",
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
    "Question",
    "QuestionKind",
    "RefusedError",
    "ReplayMode",
    "Resolution",
    "ResolvedExpert",
    "ResolvedLimits",
    "ResolvedSkill",
    "Run",
    "RunningJob",
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

_MODULES = {
    "Client": "client",
    "RunningJob": "running",
    **dict.fromkeys(("Action", "Answer", "Question", "QuestionKind"), "questions"),
    **dict.fromkeys(
        ("Finding", "Resolution", "ResolvedExpert", "ResolvedLimits", "ResolvedSkill", "Severity"), "resolution"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES.get(name, "values")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
