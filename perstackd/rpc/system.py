"""SystemService: the daemon itself."""

from typing import Any

from perstack.v1 import system_pb2 as pb
from perstack.v1 import system_pb2_grpc

from perstackd.app.system import System


class SystemServicer(system_pb2_grpc.SystemServiceServicer):
    """Read-only."""

    def __init__(self, system: System) -> None:
        self._system = system

    async def GetInfo(self, request: pb.GetInfoRequest, context: Any) -> pb.GetInfoResponse:  # noqa: N802
        info = await self._system.info()
        return pb.GetInfoResponse(
            version=info.facts.version,
            state="draining" if info.draining else "serving",
            started_at=info.facts.started_at,
            engine_version=info.engine_version,
            engine_state=info.engine_state,
            kernel=info.kernel,
            cgroup_version=info.cgroup_version,
            late_binding=info.late_binding,
            late_binding_reason=info.late_binding_reason,
            workspace_roots=info.facts.workspace_roots,
            state_directory=info.facts.state_directory,
            default_provider=info.facts.default_provider,
            default_model=info.facts.default_model,
            landlock_abi=info.facts.landlock_abi,
            running_jobs=info.running_jobs,
            queued_jobs=info.queued_jobs,
        )
