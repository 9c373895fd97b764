"""RunService: the runs of a job."""

from typing import Any

from perstack.v1 import runs_pb2 as pb
from perstack.v1 import runs_pb2_grpc

from perstackd.app.jobs import Jobs
from perstackd.domain.ids import JobId
from perstackd.rpc import convert


class RunServicer(runs_pb2_grpc.RunServiceServicer):
    """Live runs from their workers, ended ones from the log."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:  # noqa: N802
        runs = await self._jobs.runs(JobId(request.job_id))
        return pb.ListRunsResponse(runs=[convert.run(run) for run in runs])
