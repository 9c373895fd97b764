# ruff: noqa: N802 - gRPC names the methods
"""The daemon's API over a real Unix socket, with jobs whose events the test writes. No rules of the daemon are in here:
it tells what it was told to tell. `python -m tests.fakes.daemon_api SOCKET PACE [KIND]` serves one long story, or
one that asks (`asking`), for tests that kill a daemon and for looking at the live view.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from perstack.v1 import (
    events_pb2,
    experts_pb2,
    experts_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    pools_pb2,
    pools_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
    sandboxes_pb2,
    sandboxes_pb2_grpc,
    system_pb2,
    system_pb2_grpc,
)

from tests.fakes.event_log import BEGIN, JOB, EventLog, Item
from tests.fakes.stories import asking, ending_well, story

KINDS = {
    "tool": jobs_pb2.QUESTION_KIND_TOOL,
    "approval": jobs_pb2.QUESTION_KIND_APPROVAL,
    "elicitation": jobs_pb2.QUESTION_KIND_ELICITATION,
}


def asked(items: Sequence[Item]) -> dict[str, jobs_pb2.Question]:
    """All questions of the events, by their ids in the job."""
    found = {}
    for event in items:
        if isinstance(event, events_pb2.Event):
            fields = json.loads(event.payload)
            for each in [*fields.get("questions", []), *([fields["question"]] if "question" in fields else [])]:
                name = f"{event.run_id}.{each['id']}"
                found[name] = jobs_pb2.Question(
                    id=name,
                    kind=KINDS[each["kind"]],
                    run_id=event.run_id,
                    expert_key=event.expert_key,
                    skill=each["skill"],
                    tool=each["tool"],
                    arguments=json.dumps(each["arguments"]).encode(),
                    message=each["message"],
                    answer_schema=json.dumps(each["answerSchema"]).encode(),
                    asked_at=event.timestamp,
                )
    return found


@dataclass
class FakeJob:
    """One job: its record and its items; watchers wait on `changed`. It is waiting while it has open questions, unless
    it is `busy`; `then` are the events that follow the last answer.
    """

    record: jobs_pb2.Job
    items: list[Item] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    answers: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    then: Callable[[str, int], list[Item]] | None = ending_well
    busy: bool = False

    @property
    def open(self) -> list[jobs_pb2.Question]:
        return [found for name, found in asked(self.items).items() if name not in self.answers and not self.finished]

    @property
    def seq(self) -> int:
        return max((item.seq for item in self.items if isinstance(item, events_pb2.Event)), default=0)

    def told(self) -> jobs_pb2.Job:
        self.record.open_questions = len(self.open)
        if self.open and not self.busy:
            self.record.state = jobs_pb2.JOB_STATE_WAITING
        return self.record

    @property
    def finished(self) -> bool:
        return any(isinstance(item, events_pb2.Event) and item.type == "jobFinished" for item in self.items)


@dataclass
class Cut:
    """Ends a watch once the event with that number was sent."""

    after_seq: int
    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    reason: str = ""


class FakeDaemon(
    jobs_pb2_grpc.JobServiceServicer,
    experts_pb2_grpc.ExpertServiceServicer,
    runs_pb2_grpc.RunServiceServicer,
    sandboxes_pb2_grpc.SandboxServiceServicer,
    pools_pb2_grpc.PoolServiceServicer,
    system_pb2_grpc.SystemServiceServicer,
):
    """`async with FakeDaemon(path) as daemon:`. `calls` holds every request; `failures` are used up one a call."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.jobs: dict[str, FakeJob] = {}
        self.calls: list[tuple[str, Any]] = []
        self.failures: dict[str, list[status_pb2.Status]] = {}
        self.cuts: list[Cut] = []
        self.resolution = experts_pb2.ResolveResponse(experts=[experts_pb2.ResolvedExpert(key="fitness-assistant")])
        self.runs: list[runs_pb2.Run] = []
        self.sandboxes: list[sandboxes_pb2.Sandbox] = []
        self.postures: dict[str, sandboxes_pb2.GetPostureResponse] = {}
        self.pools: list[pools_pb2.Pool] = []
        self.info = system_pb2.GetInfoResponse(version="0.1.0", state="serving")
        self.items: Callable[[str], list[Item]] = story
        self.warnings: list[experts_pb2.Finding] = []
        self.on_cancel = "cancelled"
        self.batch_size = 4
        self.pace = 0.0
        self.event_sent = asyncio.Event()
        self._server = grpc.aio.server()

    async def __aenter__(self) -> Self:
        for add in (
            jobs_pb2_grpc.add_JobServiceServicer_to_server,
            experts_pb2_grpc.add_ExpertServiceServicer_to_server,
            runs_pb2_grpc.add_RunServiceServicer_to_server,
            sandboxes_pb2_grpc.add_SandboxServiceServicer_to_server,
            pools_pb2_grpc.add_PoolServiceServicer_to_server,
            system_pb2_grpc.add_SystemServiceServicer_to_server,
        ):
            add(self, self._server)
        self._server.add_insecure_port(f"unix:{self.path}")
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._server.stop(None)

    def add_job(self, items: list[Item], job_id: str = JOB, **fields: Any) -> FakeJob:
        defaults: dict[str, Any] = {
            "tenant": "default",
            "state": jobs_pb2.JOB_STATE_RUNNING,
            "expert_key": "fitness-assistant",
        }
        job = FakeJob(jobs_pb2.Job(id=job_id, **(defaults | fields)), items)
        self.jobs[job_id] = job
        return job

    async def append(self, job_id: str, *items: Item) -> None:
        job = self.jobs[job_id]
        async with job.changed:
            job.items.extend(items)
            job.changed.notify_all()

    def fail(self, method: str, code: grpc.StatusCode, reason: str, message: str, **metadata: str) -> None:
        self.failures.setdefault(method, []).append(status(code, reason, message, **metadata))

    def requests(self, method: str) -> list[Any]:
        return [request for name, request in self.calls if name == method]

    async def _seen(self, method: str, request: Any, context: Any) -> None:
        self.calls.append((method, request))
        waiting = self.failures.get(method)
        if waiting:
            await context.abort_with_status(rpc_status.to_status(waiting.pop(0)))

    async def _job(self, job_id: str, context: Any) -> FakeJob:
        if job_id not in self.jobs:
            missing = status(grpc.StatusCode.NOT_FOUND, "job_not_found", f"there is no job {job_id}")
            await context.abort_with_status(rpc_status.to_status(missing))
        return self.jobs[job_id]

    async def RunJob(self, request: Any, context: Any) -> AsyncIterator[jobs_pb2.RunJobResponse]:
        await self._seen("RunJob", request, context)
        created = await self.CreateJob(request.job, context)
        yield jobs_pb2.RunJobResponse(created=created)
        watch = jobs_pb2.WatchJobRequest(job_id=created.job.id, include_streaming=request.include_streaming)
        async for reply in self.WatchJob(watch, context):
            yield jobs_pb2.RunJobResponse(watched=reply)

    async def CreateJob(self, request: Any, context: Any) -> jobs_pb2.CreateJobResponse:
        await self._seen("CreateJob", request, context)
        job = self.add_job(self.items(JOB), expert_key=request.expert_key, query=request.query)
        return jobs_pb2.CreateJobResponse(job=job.record, warnings=self.warnings)

    async def GetJob(self, request: Any, context: Any) -> jobs_pb2.GetJobResponse:
        await self._seen("GetJob", request, context)
        return jobs_pb2.GetJobResponse(job=(await self._job(request.job_id, context)).told())

    async def ListJobs(self, request: Any, context: Any) -> jobs_pb2.ListJobsResponse:
        await self._seen("ListJobs", request, context)
        wanted = set(request.states)
        jobs = [job.record for _, job in sorted(self.jobs.items(), reverse=True)]
        jobs = [job for job in jobs if not wanted or job.state in wanted]
        start = int(request.page_token or 0)
        end = start + (request.page_size or 50)
        token = str(end) if end < len(jobs) else ""
        return jobs_pb2.ListJobsResponse(jobs=jobs[start:end], next_page_token=token)

    async def CancelJob(self, request: Any, context: Any) -> jobs_pb2.CancelJobResponse:
        await self._seen("CancelJob", request, context)
        job = await self._job(request.job_id, context)
        if self.on_cancel and not job.finished:
            log = EventLog(
                request.job_id, seq=max(item.seq for item in job.items if isinstance(item, events_pb2.Event))
            )
            log.finished(self.on_cancel, message="cancelled by the caller")
            await self.append(request.job_id, *log.items)
        return jobs_pb2.CancelJobResponse(job=job.record)

    async def PauseJob(self, request: Any, context: Any) -> jobs_pb2.PauseJobResponse:
        await self._seen("PauseJob", request, context)
        job = await self._job(request.job_id, context)
        await self._rest(job, "jobPaused", paused=True)
        return jobs_pb2.PauseJobResponse(job=job.told())

    async def ResumeJob(self, request: Any, context: Any) -> jobs_pb2.ResumeJobResponse:
        await self._seen("ResumeJob", request, context)
        job = await self._job(request.job_id, context)
        await self._rest(job, "jobResumed", paused=False)
        return jobs_pb2.ResumeJobResponse(job=job.told())

    async def _rest(self, job: FakeJob, kind: str, *, paused: bool) -> None:
        if job.record.paused != paused and not job.finished:
            job.record.paused = paused
            log = EventLog(job.record.id, seq=job.seq)
            log.add(kind)
            await self.append(job.record.id, *log.items)

    async def ListQuestions(self, request: Any, context: Any) -> jobs_pb2.ListQuestionsResponse:
        await self._seen("ListQuestions", request, context)
        return jobs_pb2.ListQuestionsResponse(questions=(await self._job(request.job_id, context)).open)

    async def AnswerQuestion(self, request: Any, context: Any) -> jobs_pb2.AnswerQuestionResponse:
        await self._seen("AnswerQuestion", request, context)
        job = await self._job(request.job_id, context)
        known, given = asked(job.items), (request.action, request.content)
        if request.question_id not in known:
            missing = status(grpc.StatusCode.NOT_FOUND, "question_not_found", "there is no such question")
            await context.abort_with_status(rpc_status.to_status(missing))
        before = job.answers.setdefault(request.question_id, given)
        if before is given:
            await self._answered(job, known[request.question_id], *given)
        elif before != given:
            closed = status(grpc.StatusCode.FAILED_PRECONDITION, "question_closed", "it has another answer")
            await context.abort_with_status(rpc_status.to_status(closed))
        return jobs_pb2.AnswerQuestionResponse(question=known[request.question_id])

    async def _answered(self, job: FakeJob, of: jobs_pb2.Question, action: str, content: bytes) -> None:
        log = EventLog(job.record.id, seq=job.seq, now=BEGIN + 50_000)
        said = {"callId": "c", "id": of.id.rpartition(".")[2]}
        if of.kind == jobs_pb2.QUESTION_KIND_APPROVAL:
            log.add("approvalDecided", {**said, "approved": action == "approve"}, run=of.run_id, step=2)
        else:
            kind = {number: name for name, number in KINDS.items()}[of.kind]
            text = {"action": action, "content": content.decode(), "kind": kind}
            log.add("questionAnswered", said | text, run=of.run_id, step=1)
        await self.append(job.record.id, *log.items)
        if not job.open and job.then is not None:
            job.record.state = jobs_pb2.JOB_STATE_RUNNING
            await self.append(job.record.id, *job.then(job.record.id, job.seq))

    async def WatchJob(self, request: Any, context: Any) -> AsyncIterator[jobs_pb2.WatchJobResponse]:
        await self._seen("WatchJob", request, context)
        job = await self._job(request.job_id, context)
        at = next((i for i, item in enumerate(job.items) if _seq(item) > request.after_seq), len(job.items))
        while True:
            batch = job.items[at : at + self.batch_size]
            at += len(batch)
            cut = self._cut(batch)
            if batch:
                if self.pace:
                    await asyncio.sleep(self.pace)
                yield _response(batch, streaming=request.include_streaming)
                self.event_sent.set()
            if cut:
                end = status(cut.code, cut.reason, "the stream ends here", seq=str(cut.after_seq))
                await context.abort_with_status(rpc_status.to_status(end))
            if any(isinstance(item, events_pb2.Event) and item.type == "jobFinished" for item in batch):
                return
            if at < len(job.items):
                continue
            if request.no_follow or (not batch and job.finished):
                return
            async with job.changed:
                await job.changed.wait_for(lambda: len(job.items) > at)  # noqa: B023 - waited for before `at` moves

    def _cut(self, batch: Sequence[Item]) -> Cut | None:
        if self.cuts and any(isinstance(i, events_pb2.Event) and i.seq >= self.cuts[0].after_seq for i in batch):
            return self.cuts.pop(0)
        return None

    async def Resolve(self, request: Any, context: Any) -> experts_pb2.ResolveResponse:
        await self._seen("Resolve", request, context)
        return self.resolution

    async def ListRuns(self, request: Any, context: Any) -> runs_pb2.ListRunsResponse:
        await self._seen("ListRuns", request, context)
        return runs_pb2.ListRunsResponse(runs=self.runs)

    async def ListSandboxes(self, request: Any, context: Any) -> sandboxes_pb2.ListSandboxesResponse:
        await self._seen("ListSandboxes", request, context)
        return sandboxes_pb2.ListSandboxesResponse(sandboxes=self.sandboxes)

    async def GetSandbox(self, request: Any, context: Any) -> sandboxes_pb2.GetSandboxResponse:
        await self._seen("GetSandbox", request, context)
        found = next(each for each in self.sandboxes if each.id.startswith(request.sandbox_id))
        return sandboxes_pb2.GetSandboxResponse(sandbox=found)

    async def GetPosture(self, request: Any, context: Any) -> sandboxes_pb2.GetPostureResponse:
        await self._seen("GetPosture", request, context)
        return self.postures[request.sandbox_id]

    async def ListPools(self, request: Any, context: Any) -> pools_pb2.ListPoolsResponse:
        await self._seen("ListPools", request, context)
        return pools_pb2.ListPoolsResponse(pools=self.pools)

    async def GetInfo(self, request: Any, context: Any) -> system_pb2.GetInfoResponse:
        await self._seen("GetInfo", request, context)
        return self.info


def status(code: grpc.StatusCode, reason: str, message: str, **metadata: str) -> status_pb2.Status:
    """An error as the daemon sends it; without a reason as a proxy or gRPC itself would."""
    details = []
    if reason:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="perstack", metadata=metadata))
        details.append(detail)
    return status_pb2.Status(code=code.value[0], message=message, details=details)


def _seq(item: Item) -> int:
    return item.seq if isinstance(item, events_pb2.Event) else item.after_seq + 1


def _response(batch: Sequence[Item], *, streaming: bool) -> jobs_pb2.WatchJobResponse:
    return jobs_pb2.WatchJobResponse(
        events=[item for item in batch if isinstance(item, events_pb2.Event)],
        streaming=[item for item in batch if isinstance(item, events_pb2.StreamingEvent)] if streaming else [],
    )


async def _serve(path: str, pace: float, kind: str) -> None:
    async with FakeDaemon(path) as daemon:
        daemon.pace, daemon.batch_size = pace, 1
        if kind:
            daemon.items = lambda job_id: asking(job_id, of=kind)
        sys.stdout.write("serving\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], float(sys.argv[2]), "".join(sys.argv[3:4])))
