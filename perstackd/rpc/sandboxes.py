"""SandboxService: what the pool knows of its sandboxes."""

from typing import Any

from perstack.v1 import sandboxes_pb2 as pb
from perstack.v1 import sandboxes_pb2_grpc

from perstackd.app.warm_pool import WarmPool
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import SandboxRecord
from perstackd.rpc import convert


class SandboxServicer(sandboxes_pb2_grpc.SandboxServiceServicer):
    """Read-only: the pool alone makes and removes sandboxes."""

    def __init__(self, pool: WarmPool) -> None:
        self._pool = pool

    async def ListSandboxes(self, request: pb.ListSandboxesRequest, context: Any) -> pb.ListSandboxesResponse:  # noqa: N802
        convert.tenant(request.tenant)
        return pb.ListSandboxesResponse(sandboxes=[self._told(record) for record in self._pool.records()])

    async def GetSandbox(self, request: pb.GetSandboxRequest, context: Any) -> pb.GetSandboxResponse:  # noqa: N802
        return pb.GetSandboxResponse(sandbox=self._told(found_sandbox(self._pool, request.sandbox_id)))

    def _told(self, record: SandboxRecord) -> pb.Sandbox:
        return convert.sandbox(record, self._pool.problems(record.id))

    async def GetPosture(self, request: pb.GetPostureRequest, context: Any) -> pb.GetPostureResponse:  # noqa: N802
        posture = self._pool.posture(SandboxId(request.sandbox_id))
        if posture is None:
            posture = self._pool.posture(found_sandbox(self._pool, request.sandbox_id).id)
        if posture is None:
            message = f"the sandbox {request.sandbox_id} is still starting; its posture follows in a moment"
            raise PerstackError(Kind.PRECONDITION, "posture_not_yet", message, retryable=True)
        return convert.posture(posture)


def found_sandbox(pool: WarmPool, prefix: str) -> SandboxRecord:
    """The one sandbox whose id begins so. Raises PerstackError: INVALID `sandbox_ambiguous`; NOT_FOUND
    `sandbox_not_found`.
    """
    found = [record for record in pool.records() if prefix and record.id.startswith(prefix.upper())]
    if len(found) == 1:
        return found[0]
    if found:
        message = f"{len(found)} sandboxes begin with {prefix[:64]!r}; give more of the id"
        raise PerstackError(Kind.INVALID, "sandbox_ambiguous", message)
    message = f"there is no sandbox {prefix[:64]!r}; perstackctl sandbox ls lists those that live"
    raise PerstackError(Kind.NOT_FOUND, "sandbox_not_found", message)
