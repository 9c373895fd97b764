"""The client: one channel to one daemon, typed methods, every call with a deadline."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

import grpc
import grpc.aio
from perstack.v1 import jobs_pb2, jobs_pb2_grpc

from perstackctl.client import convert
from perstackctl.client import values as v
from perstackctl.client.address import DEFAULT_ADDRESS, diagnose, socket_path
from perstackctl.client.convert_experts import resolution
from perstackctl.client.errors import ClientError
from perstackctl.client.questions import Answer, Question
from perstackctl.client.resolution import Resolution
from perstackctl.client.running import RunningJob, begun
from perstackctl.client.status import from_rpc
from perstackctl.client.watch import OnCut, Patience, Stream, Watch

if TYPE_CHECKING:
    from perstackctl.client.egress import EgressVerdict
    from perstackctl.client.logs import JobLogs
    from perstackctl.client.secrets import SecretStore
    from perstackctl.client.workspaces import NamedWorkspaces

_RETRY_SECONDS: Final = 0.1
# Set, because gRPC's own back-off (1 s and more) would make a restarted daemon look down.
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.min_reconnect_backoff_ms", 5000),  # in spite of its name: how long one attempt to connect may take
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.enable_http_proxy", 0),
)

Request = TypeVar("Request")
Response = TypeVar("Response")


class Client:  # more than 12 methods: one per method of the API
    """`async with Client(address) as client:`. Every method raises ClientError and nothing else of the wire.

    `address` is `unix:PATH` or a path. `timeout` bounds each call, `reconnect_seconds` how long a watch waits for a
    daemon that went away. Calls that are safe to repeat are repeated once when the connection broke.
    """

    def __init__(self, address: str = "", *, timeout: float = 30.0, reconnect_seconds: float = 10.0) -> None:
        self.path = socket_path(address or DEFAULT_ADDRESS)
        self._timeout = timeout
        self._reconnect_seconds = reconnect_seconds
        self._opened: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        self._opened = grpc.aio.insecure_channel(f"unix:{self.path}", options=_OPTIONS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        channel, self._opened = self._channel, None
        await channel.close()

    async def create_job(self, request: v.JobRequest) -> v.CreatedJob:
        """Make a job; durable when it returns. Sent again after a broken connection only with an idempotency key."""
        stub = jobs_pb2_grpc.JobServiceStub(self._channel)
        message = convert.create_request(request)
        return convert.created(await self._call(stub.CreateJob, message, repeat=bool(request.idempotency_key)))

    async def run_job(self, request: v.JobRequest, *, include_streaming: bool = False) -> RunningJob:
        """As `create_job` and `watch_job` in one call: what comes of it is in the `batches` of what is returned."""
        stub = jobs_pb2_grpc.JobServiceStub(self._channel)
        message = jobs_pb2.RunJobRequest(job=convert.create_request(request), include_streaming=include_streaming)
        opened, created = await begun(stub.RunJob, message, self._call, repeat=bool(request.idempotency_key))
        return RunningJob(created, opened, partial(self._watch, created.job.id, include_streaming=include_streaming))

    async def get_job(self, job_id: str) -> v.Job:
        """One job by its full id."""
        stub = jobs_pb2_grpc.JobServiceStub(self._channel)
        return convert.job((await self._call(stub.GetJob, jobs_pb2.GetJobRequest(job_id=job_id))).job)

    async def list_jobs(
        self, *, tenant: str = "", states: Iterable[v.JobState] = (), page_size: int = 100
    ) -> AsyncGenerator[v.Job, None]:
        """Jobs, newest first; pages are fetched as they are needed."""
        stub = jobs_pb2_grpc.JobServiceStub(self._channel)
        wanted, token = tuple(states), ""
        while True:
            page = await self._call(stub.ListJobs, convert.list_request(tenant, wanted, page_size, token))
            for message in page.jobs:
                yield convert.job(message)
            token = page.next_page_token
            if not token:
                return

    async def cancel_job(self, job_id: str, reason: str = "") -> v.Job:
        """Ask for a job's end; the end itself is an event. Idempotent."""
        stub = jobs_pb2_grpc.JobServiceStub(self._channel)
        request = jobs_pb2.CancelJobRequest(job_id=job_id, reason=reason)
        return convert.job((await self._call(stub.CancelJob, request)).job)

    async def pause_job(self, job_id: str) -> v.Job:
        """Let the job's runs finish the step in hand and start no other. Idempotent."""
        stub = jobs_pb2_grpc.JobServiceStub(self._channel)
        return convert.job((await self._call(stub.PauseJob, jobs_pb2.PauseJobRequest(job_id=job_id))).job)

    async def resume_job(self, job_id: str) -> v.Job:
        """Let a paused job go on. Idempotent."""
        stub = jobs_pb2_grpc.JobServiceStub(self._channel)
        return convert.job((await self._call(stub.ResumeJob, jobs_pb2.ResumeJobRequest(job_id=job_id))).job)

    async def list_questions(self, job_id: str) -> tuple[Question, ...]:
        """What the job's runs wait for a person to say, oldest first."""
        stub = jobs_pb2_grpc.JobServiceStub(self._channel)
        response = await self._call(stub.ListQuestions, jobs_pb2.ListQuestionsRequest(job_id=job_id))
        return tuple(map(convert.question, response.questions))

    async def answer_question(self, job_id: str, question_id: str, answer: Answer) -> Question:
        """Answer one question; durable when it returns. The same answer again changes nothing.

        Raises:
            InvalidError: reason `answer_invalid`, with what does not fit; the question stays open.
            PreconditionError: reason `question_closed`, it has another answer.
        """
        stub = jobs_pb2_grpc.JobServiceStub(self._channel)
        request = convert.answer_request(job_id, question_id, answer)
        return convert.question((await self._call(stub.AnswerQuestion, request)).question)

    def watch_job(
        self,
        job_id: str,
        after_seq: int = 0,
        include_streaming: bool = False,  # noqa: FBT001, FBT002 - the API's own parameter
        *,
        follow: bool = True,
        on_cut: OnCut | None = None,
    ) -> AsyncGenerator[v.Batch, None]:
        """Events after `after_seq` in order, without gap or repeat, over cuts and restarts of the daemon.

        Ends after `jobFinished`; without `follow` at the end of the log. Close it (`aclosing`) when leaving early.

        Raises:
            ConnectionLostError: nothing new for `reconnect_seconds` of trying; has the last sequence number.
            NotFoundError: there is no such job.
        """
        return self._watch(job_id, after_seq, include_streaming=include_streaming, follow=follow, on_cut=on_cut)

    def _watch(
        self,
        job_id: str,
        after_seq: int = 0,
        *,
        include_streaming: bool,
        follow: bool = True,
        on_cut: OnCut | None = None,
        first: Stream | None = None,
    ) -> AsyncGenerator[v.Batch, None]:
        stub = jobs_pb2_grpc.JobServiceStub(self._channel)

        def open_stream(last_seq: int) -> Stream:
            request = jobs_pb2.WatchJobRequest(
                job_id=job_id, after_seq=last_seq, include_streaming=include_streaming, no_follow=not follow
            )
            return stub.WatchJob(request)

        patience = Patience(self._reconnect_seconds)
        return Watch(job_id, after_seq, open_stream, self._explain, patience, on_cut, first).batches()

    async def resolve(
        self, definition: v.Definition, expert_key: str = "", *, report_errors: bool = False
    ) -> Resolution:
        """What a definition says; every expert of it when no key is given. With `report_errors` a definition that
        cannot be used is told by its findings, and there are no experts.

        Raises:
            InvalidError: reason `definition_invalid`, all problems in the message.
        """
        from perstack.v1 import experts_pb2, experts_pb2_grpc

        request = experts_pb2.ResolveRequest(
            definition=convert.definition_message(definition), expert_key=expert_key, report_errors=report_errors
        )
        stub = experts_pb2_grpc.ExpertServiceStub(self._channel)
        return resolution(await self._call(stub.Resolve, request))

    async def list_runs(self, job_id: str) -> tuple[v.Run, ...]:
        """The runs of a job, parents before their children."""
        from perstack.v1 import runs_pb2, runs_pb2_grpc

        stub = runs_pb2_grpc.RunServiceStub(self._channel)
        response = await self._call(stub.ListRuns, runs_pb2.ListRunsRequest(job_id=job_id))
        return tuple(map(convert.run, response.runs))

    async def list_sandboxes(self, tenant: str = "") -> tuple[v.Sandbox, ...]:
        """The sandboxes that live, oldest first."""
        from perstack.v1 import sandboxes_pb2, sandboxes_pb2_grpc

        stub = sandboxes_pb2_grpc.SandboxServiceStub(self._channel)
        response = await self._call(stub.ListSandboxes, sandboxes_pb2.ListSandboxesRequest(tenant=tenant))
        return tuple(map(convert.sandbox, response.sandboxes))

    async def get_sandbox(self, sandbox_id: str) -> v.Sandbox:
        """One sandbox by its id or by a prefix that only it has."""
        from perstack.v1 import sandboxes_pb2, sandboxes_pb2_grpc

        stub = sandboxes_pb2_grpc.SandboxServiceStub(self._channel)
        response = await self._call(stub.GetSandbox, sandboxes_pb2.GetSandboxRequest(sandbox_id=sandbox_id))
        return convert.sandbox(response.sandbox)

    async def posture(self, sandbox_id: str) -> v.Posture:
        """What the kernel says about a sandbox; kept for 10 minutes after its end. Needs the full id."""
        from perstack.v1 import sandboxes_pb2, sandboxes_pb2_grpc

        stub = sandboxes_pb2_grpc.SandboxServiceStub(self._channel)
        request = sandboxes_pb2.GetPostureRequest(sandbox_id=sandbox_id)
        return convert.posture(await self._call(stub.GetPosture, request))

    async def explain_egress(
        self,
        host: str,
        port: int = 443,
        *,
        sandbox_id: str = "",
        definition: v.Definition | None = None,
        expert_key: str = "",
        allow_domains: Iterable[str] = (),
    ) -> "tuple[EgressVerdict, ...]":
        """The dry run of a connection, from a sandbox that lives or from those that a job of the definition would have.

        Raises:
            InvalidError: reasons `definition_invalid`, `domain_invalid`, `host_invalid`, `sandbox_ambiguous`.
        """
        from perstack.v1 import egress_pb2, egress_pb2_grpc

        from perstackctl.client.egress import verdict

        request = egress_pb2.ExplainEgressRequest(
            host=host,
            port=port,
            sandbox_id=sandbox_id,
            definition=convert.definition_message(definition) if definition is not None else None,
            expert_key=expert_key,
            allow_domains=allow_domains,
        )
        response = await self._call(egress_pb2_grpc.EgressServiceStub(self._channel).ExplainEgress, request)
        return tuple(map(verdict, response.verdicts))

    async def pools(self) -> tuple[v.Pool, ...]:
        """Every pool."""
        from perstack.v1 import pools_pb2, pools_pb2_grpc

        stub = pools_pb2_grpc.PoolServiceStub(self._channel)
        response = await self._call(stub.ListPools, pools_pb2.ListPoolsRequest())
        return tuple(map(convert.pool, response.pools))

    async def info(self) -> v.Info:
        """The daemon itself."""
        from perstack.v1 import system_pb2, system_pb2_grpc

        stub = system_pb2_grpc.SystemServiceStub(self._channel)
        return convert.info(await self._call(stub.GetInfo, system_pb2.GetInfoRequest()))

    @property
    def logs(self) -> "JobLogs":
        """What can be done with jobs' logs."""
        from perstackctl.client.logs import JobLogs

        return JobLogs(self._channel, self._call, self._explain)

    @property
    def secrets(self) -> "SecretStore":
        """What can be done with stored secrets."""
        from perstackctl.client.secrets import SecretStore

        return SecretStore(self._channel, self._call, self._explain)

    @property
    def workspaces(self) -> "NamedWorkspaces":
        """What can be done with the workspaces that the daemon keeps."""
        from perstackctl.client.workspaces import NamedWorkspaces

        return NamedWorkspaces(self._channel, self._call, self._explain)

    @property
    def _channel(self) -> grpc.aio.Channel:
        if self._opened is None:
            raise RuntimeError("the client is not open: use `async with Client(address) as client:`")
        return self._opened

    async def _call(
        self, method: Callable[..., Awaitable[Response]], request: object, *, repeat: bool = True
    ) -> Response:
        try:
            return await method(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            failure = await self._explain(error)
            if not (repeat and error.code() is grpc.StatusCode.UNAVAILABLE and failure.reason == "unreachable"):
                raise failure from None
        # The socket takes connections, so the break was of this one connection: a restart, most likely.
        await asyncio.sleep(_RETRY_SECONDS)
        try:
            return await method(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            raise await self._explain(error) from None

    async def _explain(self, error: grpc.aio.AioRpcError) -> ClientError:
        failure = from_rpc(error)
        if error.code() is grpc.StatusCode.UNAVAILABLE and failure.reason == "unreachable":
            return await asyncio.to_thread(diagnose, self.path) or failure
        return failure
