"""RetentionService: jobs that are deleted, and all of a tenant."""

from typing import Any

from perstack.v1 import retention_pb2 as pb
from perstack.v1 import retention_pb2_grpc

from perstackd.app.erasure import Erasure
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import JobId
from perstackd.rpc import convert


class RetentionServicer(retention_pb2_grpc.RetentionServiceServicer):
    """Thin: every rule is in `app`."""

    def __init__(self, erasure: Erasure) -> None:
        self._erasure = erasure
        self._retention = erasure.retention

    async def DeleteJobs(self, request: pb.DeleteJobsRequest, context: Any) -> pb.DeleteJobsResponse:  # noqa: N802
        deleted = await self._retention.delete([JobId(job_id) for job_id in request.job_ids])
        return pb.DeleteJobsResponse(job_ids=deleted)

    async def EraseTenant(self, request: pb.EraseTenantRequest, context: Any) -> pb.EraseTenantResponse:  # noqa: N802
        if not request.tenant:
            raise PerstackError(Kind.INVALID, "field_missing", "tenant is missing; name who shall be erased")
        done = await self._erasure.erase(convert.tenant(request.tenant), jobs_only=request.jobs_only)
        return pb.EraseTenantResponse(
            deleted=done.jobs,
            unfinished=done.unfinished,
            secrets=done.secrets,
            workspaces=done.workspaces,
            left=done.left,
        )
