"""JobService: binds requests to `app.jobs`."""

from collections.abc import AsyncIterator
from typing import Any

from perstack.v1 import jobs_pb2 as pb
from perstack.v1 import jobs_pb2_grpc

from perstackd.app.jobs import Jobs
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import JobId, is_id
from perstackd.rpc import convert

_DEFAULT_PAGE = 50
_MAX_PAGE = 1000


class JobServicer(jobs_pb2_grpc.JobServiceServicer):
    """Thin: every rule is in `app`."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def CreateJob(self, request: pb.CreateJobRequest, context: Any) -> pb.CreateJobResponse:  # noqa: N802
        record, findings = await self._jobs.create(convert.job_request(request))
        job = convert.job(record, self._jobs.queue(record.id))
        return pb.CreateJobResponse(job=job, warnings=[convert.finding(finding) for finding in findings])

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.GetJobResponse:  # noqa: N802
        record = await self._jobs.get(JobId(request.job_id))
        return pb.GetJobResponse(job=convert.job(record, self._jobs.queue(record.id)))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:  # noqa: N802
        if request.page_token and not is_id(request.page_token):
            raise PerstackError(Kind.INVALID, "page_token_invalid", "the page token is not one of an earlier reply")
        size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        tenant, states = convert.tenant(request.tenant), convert.job_states(list(request.states))
        before = JobId(request.page_token) if request.page_token else None
        records = await self._jobs.page(tenant, states, before, size)
        jobs = [convert.job(record, self._jobs.queue(record.id)) for record in records]
        return pb.ListJobsResponse(jobs=jobs, next_page_token=records[-1].id if len(records) == size else "")

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.CancelJobResponse:  # noqa: N802
        record = await self._jobs.cancel(JobId(request.job_id), request.reason)
        return pb.CancelJobResponse(job=convert.job(record))

    async def WatchJob(self, request: pb.WatchJobRequest, context: Any) -> AsyncIterator[pb.WatchJobResponse]:  # noqa: N802
        batches = self._jobs.watch(
            JobId(request.job_id), request.after_seq, streaming=request.include_streaming, follow=not request.no_follow
        )
        async for batch in batches:
            yield pb.WatchJobResponse(
                events=[convert.event(stored) for stored in batch.events],
                streaming=[convert.streaming(piece) for piece in batch.pieces],
            )
