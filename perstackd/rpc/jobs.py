"""JobService: binds requests to `app.jobs`."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from itertools import chain
from typing import Any, Final, cast

from perstack.v1 import events_pb2, jobs_pb2_grpc
from perstack.v1 import jobs_pb2 as pb

from perstackd.app.feed import Batch
from perstackd.app.jobs import Jobs
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import JobId, is_id
from perstackd.rpc import convert

_DEFAULT_PAGE = 50
_MAX_PAGE = 1000
REPLY_BYTES: Final = 2 << 20
"""gRPC's clients refuse messages of more than 4 MiB unless told otherwise."""
WATCH_BYTES: Final = 1 << 20
"""Of one reply to a watcher: what it does not read is held until it does."""


class JobServicer(jobs_pb2_grpc.JobServiceServicer):
    """Thin: every rule is in `app`."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def CreateJob(self, request: pb.CreateJobRequest, context: Any) -> pb.CreateJobResponse:  # noqa: N802
        record, findings = await self._jobs.create(convert.job_request(request))
        job = convert.job(record, self._jobs.queue(record.id))
        return pb.CreateJobResponse(job=job, warnings=[convert.finding(finding) for finding in findings])

    async def RunJob(self, request: pb.RunJobRequest, context: Any) -> AsyncIterator[pb.RunJobResponse]:  # noqa: N802
        created = await self.CreateJob(request.job, context)
        yield pb.RunJobResponse(created=created)
        watch = pb.WatchJobRequest(job_id=created.job.id, include_streaming=request.include_streaming)
        replies = cast("AsyncGenerator[pb.WatchJobResponse, None]", self.WatchJob(watch, context))
        async with aclosing(replies) as open_replies:
            async for reply in open_replies:
                yield pb.RunJobResponse(watched=reply)

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
        jobs = _fitting([convert.job(record, self._jobs.queue(record.id)) for record in records])
        more = len(jobs) < len(records) or len(records) == size
        return pb.ListJobsResponse(jobs=jobs, next_page_token=jobs[-1].id if jobs and more else "")

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.CancelJobResponse:  # noqa: N802
        record = await self._jobs.cancel(JobId(request.job_id), request.reason)
        return pb.CancelJobResponse(job=convert.job(record))

    async def ListQuestions(self, request: pb.ListQuestionsRequest, context: Any) -> pb.ListQuestionsResponse:  # noqa: N802
        questions = await self._jobs.questions(JobId(request.job_id))
        return pb.ListQuestionsResponse(questions=[convert.question(each) for each in questions])

    async def AnswerQuestion(self, request: pb.AnswerQuestionRequest, context: Any) -> pb.AnswerQuestionResponse:  # noqa: N802
        job_id = JobId(request.job_id)
        answered = await self._jobs.answer(job_id, request.question_id, request.action, request.content)
        return pb.AnswerQuestionResponse(question=convert.question(answered))

    async def PauseJob(self, request: pb.PauseJobRequest, context: Any) -> pb.PauseJobResponse:  # noqa: N802
        return pb.PauseJobResponse(job=convert.job(await self._jobs.pause(JobId(request.job_id))))

    async def ResumeJob(self, request: pb.ResumeJobRequest, context: Any) -> pb.ResumeJobResponse:  # noqa: N802
        return pb.ResumeJobResponse(job=convert.job(await self._jobs.resume(JobId(request.job_id))))

    async def WatchJob(self, request: pb.WatchJobRequest, context: Any) -> AsyncIterator[pb.WatchJobResponse]:  # noqa: N802
        batches = self._jobs.watch(
            JobId(request.job_id), request.after_seq, streaming=request.include_streaming, follow=not request.no_follow
        )
        async with aclosing(cast("AsyncGenerator[Batch, None]", batches)) as open_batches:
            async for batch in open_batches:
                for reply in _replies(batch):
                    yield reply


def _fitting(jobs: list[pb.Job]) -> list[pb.Job]:
    """As many as one reply holds, at least one; the next page goes on from there."""
    size = 0
    for place, job in enumerate(jobs):
        size += job.ByteSize()
        if place and size > REPLY_BYTES:
            return jobs[:place]
    return jobs


def _replies(batch: Batch) -> Iterator[pb.WatchJobResponse]:
    """A batch in replies of about `WATCH_BYTES`, each made when it is sent; a larger event goes alone."""
    reply, size = pb.WatchJobResponse(), 0
    items: Iterator[events_pb2.Event | events_pb2.StreamingEvent] = chain(
        map(convert.event, batch.events), map(convert.streaming, batch.pieces)
    )
    for item in items:
        own = item.ByteSize()
        if size and size + own > WATCH_BYTES:
            yield reply
            reply, size = pb.WatchJobResponse(), 0
        size += own
        if isinstance(item, events_pb2.Event):
            reply.events.append(item)
        else:
            reply.streaming.append(item)
    yield reply
