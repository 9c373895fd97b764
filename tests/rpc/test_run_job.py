"""RunJob, which makes a job and watches it: the daemon's own API over a real socket, and the client on top of it."""

import asyncio
import gc
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from perstack.v1 import experts_pb2, jobs_pb2_grpc
from perstack.v1 import jobs_pb2 as pb

from perstackctl import client as api
from perstackctl.client import Client, Definition, JobRequest, Workspace, WorkspaceKind
from perstackd.app import feed
from perstackd.app.system import System, SystemFacts
from perstackd.domain.job import JobState
from perstackd.rpc.server import AdminSocket, Api, admin_server
from tests.fakes.clock import FakeClock
from tests.fakes.models import Held
from tests.unit.app.daemon_in_memory import TEAM, World, world
from tests.unit.app.gates import Gate
from tests.unit.app.test_jobs import LEAD, calls, says
from tests.unit.app.warm_pool_world import eventually

pytestmark = pytest.mark.anyio
TIMEOUT = 20
REQUEST = JobRequest(Definition(TEAM, "/p/perstack.toml"), "lead", "do it", idempotency_key="k")
ASKED = pb.RunJobRequest(
    job=pb.CreateJobRequest(
        definition=experts_pb2.Definition(toml=TEAM, source="p.toml"), expert_key="lead", query="do it"
    )
)


@pytest.fixture
def root() -> Iterator[Path]:
    """Short, because socket paths are."""
    with tempfile.TemporaryDirectory(prefix="prun-", dir="/tmp") as path:
        yield Path(path)
    gc.collect()  # a gRPC server takes a lock when it is freed, which must not happen on the next test's loop


@asynccontextmanager
async def served(root: Path, turns: Any) -> AsyncIterator[World]:
    async with world(root / "run", turns) as daemon:
        facts = SystemFacts("0.1.0", 1, ("/srv",), "/var/lib/perstackd", "scripted", "m")
        api = Api(daemon.jobs, daemon.pool, System(facts, daemon.sandboxes, daemon.pool, daemon.jobs))
        async with admin_server(AdminSocket(root / "admin" / "p.sock"), api, FakeClock()):
            yield daemon


@asynccontextmanager
async def stub_of(root: Path) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"unix:{root}/admin/p.sock") as channel:
        yield jobs_pb2_grpc.JobServiceStub(channel)


def client_of(root: Path) -> Client:
    return Client(str(root / "admin" / "p.sock"), timeout=10, reconnect_seconds=2)


async def seen(running: api.RunningJob) -> list[int]:
    async with asyncio.timeout(TIMEOUT), aclosing(running.batches()) as batches:
        return [event.seq async for batch in batches for event in batch.events]


# --- the API ----------------------------------------------------------------------------------------------------------
async def test_the_first_reply_is_the_job_alone_and_all_others_are_what_comes_of_it(root: Path) -> None:
    async with served(root, {LEAD: [calls(("a", "exec", {})), says("done")]}) as daemon, stub_of(root) as stub:
        async with asyncio.timeout(TIMEOUT):
            replies = [reply async for reply in stub.RunJob(ASKED)]
        job_id = replies[0].created.job.id
        stored = [each.event.seq for each in daemon.store.log[job_id]]
    assert [reply.WhichOneof("reply") for reply in replies] == ["created", *["watched"] * (len(replies) - 1)]
    assert [event.seq for reply in replies for event in reply.watched.events] == stored


@pytest.mark.parametrize("wanted", [True, False])
async def test_pieces_of_text_come_when_they_are_asked_for(root: Path, *, wanted: bool) -> None:
    held = Held(says("done"))
    async with served(root, {LEAD: [held]}), stub_of(root) as stub, asyncio.timeout(TIMEOUT):
        call = stub.RunJob(pb.RunJobRequest(job=ASKED.job, include_streaming=wanted))
        replies = [await call.read(), await call.read()]  # it watches now
        held.release.set()
        while (reply := await call.read()) is not grpc.aio.EOF:
            replies.append(reply)
    text = "".join(piece.delta for reply in replies for piece in reply.watched.streaming)
    assert text == ("done" if wanted else "")


async def test_a_request_without_a_job_and_bytes_that_are_no_message_are_refused(root: Path) -> None:
    async with served(root, {}) as daemon, client_of(root) as client:
        with pytest.raises(api.InvalidError):
            await client.run_job(JobRequest(Definition(""), "", ""))
        async with grpc.aio.insecure_channel(f"unix:{root}/admin/p.sock") as channel:
            call = channel.unary_stream("/perstack.v1.JobService/RunJob", lambda data: data, lambda data: data)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\xff" * 1000, timeout=10).read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert daemon.store.log == {}


async def test_a_caller_that_hangs_up_while_the_job_is_written_leaves_a_job_that_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(root, {LEAD: [says("done")]}) as daemon, stub_of(root) as stub:
        birth = Gate(monkeypatch, daemon.store, "create")
        call = stub.RunJob(ASKED)
        await birth.wait()
        call.cancel()
        await eventually(call.done)
        birth.open()
        await eventually(lambda: bool(daemon.store.log))
        (job_id,) = daemon.store.log
        await daemon.events(job_id)
        assert (await daemon.jobs.get(job_id)).state is JobState.COMPLETED
        await eventually(lambda: not daemon.jobs._feed._channels)


async def test_a_caller_that_hangs_up_while_it_watches_leaves_a_job_that_runs_and_no_watcher(root: Path) -> None:
    held = Held(says("done"))
    async with served(root, {LEAD: [held]}) as daemon, client_of(root) as client:
        running = await client.run_job(REQUEST)
        job_id = running.created.job.id
        async with asyncio.timeout(TIMEOUT), aclosing(running.batches()) as batches:
            await anext(batches)
            await held.reached.wait()
            channel = daemon.jobs._feed._channels[job_id]  # type: ignore[index]
            assert len(channel.watchers) == 1
        await eventually(lambda: not channel.watchers)
        assert (await client.get_job(job_id)).state is api.JobState.RUNNING
        held.release.set()
        await daemon.events(job_id)  # type: ignore[arg-type]
        assert (await client.get_job(job_id)).state is api.JobState.COMPLETED


# --- the client -------------------------------------------------------------------------------------------------------
async def test_a_job_is_made_and_watched_to_its_end_and_can_be_watched_again(root: Path) -> None:
    async with served(root, {LEAD: [calls(("a", "exec", {})), says("done")]}), client_of(root) as client:
        running = await client.run_job(REQUEST)
        events = await seen(running)
        job = await client.get_job(running.created.job.id)
        assert events == list(range(1, job.last_seq + 1))
        assert (job.state, job.answer) == (api.JobState.COMPLETED, "done")
        assert await seen(running) == events


async def test_a_repeated_request_gets_the_first_job_and_all_of_its_events(root: Path) -> None:
    async with served(root, {LEAD: [says("done")]}) as daemon, client_of(root) as client:
        first = await client.run_job(REQUEST)
        events = await seen(first)
        again = await client.run_job(REQUEST)
        assert again.created.job.id == first.created.job.id
        assert await seen(again) == events
        assert len(daemon.store.log) == 1


async def test_a_request_that_is_repeated_while_the_first_is_written_watches_the_same_job(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a client does whose connection broke; the first one's hold on the workspace is not in its way."""
    request = JobRequest(
        REQUEST.definition, "lead", "do it", Workspace(WorkspaceKind.NAMED, "kept"), idempotency_key="k"
    )
    async with served(root, {LEAD: [says("done")]}) as daemon, client_of(root) as client:
        birth = Gate(monkeypatch, daemon.store, "create")
        first = asyncio.ensure_future(client.run_job(request))
        await birth.wait()
        first.cancel()
        second = asyncio.ensure_future(client.run_job(request))
        with pytest.raises(asyncio.CancelledError):
            await first
        birth.open()
        async with asyncio.timeout(TIMEOUT):
            events = await seen(await second)
        (log,) = daemon.store.log.values()
        assert events == [each.event.seq for each in log]


def wrong_definition(request: JobRequest) -> JobRequest:
    return JobRequest(Definition("[experts", "p.toml"), request.expert_key, request.query)


def unknown_expert(request: JobRequest) -> JobRequest:
    return JobRequest(request.definition, "nobody", request.query)


def used_key(request: JobRequest) -> JobRequest:
    return JobRequest(request.definition, request.expert_key, "something else", idempotency_key="k")


def taken_workspace(request: JobRequest) -> JobRequest:
    return JobRequest(request.definition, request.expert_key, "x", Workspace(WorkspaceKind.NAMED, "kept"))


@pytest.mark.parametrize("change", [wrong_definition, unknown_expert, used_key, taken_workspace])
async def test_what_is_refused_is_the_same_error_as_of_create_job(
    root: Path, change: Callable[[JobRequest], JobRequest]
) -> None:
    held = Held(says("done"))
    async with served(root, {LEAD: [held]}) as daemon, client_of(root) as client:
        kept = Workspace(WorkspaceKind.NAMED, "kept")
        await client.create_job(JobRequest(REQUEST.definition, "lead", "do it", kept, idempotency_key="k"))
        request = change(REQUEST)
        told = [await _refused(client.create_job, request), await _refused(client.run_job, request)]
        assert told[0] == told[1]
        assert len(daemon.store.log) == 1
        held.release.set()


async def _refused(method: Callable[[JobRequest], Awaitable[Any]], request: JobRequest) -> tuple[Any, ...]:
    with pytest.raises(api.ClientError) as caught:
        await method(request)
    error = caught.value
    return type(error), error.reason, error.message, dict(error.metadata), error.exit_code


async def test_a_daemon_that_drains_refuses_and_one_that_cannot_write_says_so(root: Path) -> None:
    async with served(root, {}) as daemon, client_of(root) as client:
        daemon.store.fail_writes = True
        with pytest.raises(api.UnreachableError) as full:
            await client.run_job(REQUEST)
        daemon.store.fail_writes = False
        await daemon.jobs.drain(0)
        with pytest.raises(api.UnreachableError) as draining:
            await client.run_job(REQUEST)
    assert (full.value.reason, draining.value.reason) == ("store_unavailable", "draining")


async def test_where_there_are_too_many_watchers_the_job_is_made_and_goes_on(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(root, {LEAD: [says("done")]}) as daemon, client_of(root) as client:
        with monkeypatch.context() as patch:
            patch.setattr(feed, "MAX_WATCHERS_OF_JOB", 0)
            running = await client.run_job(REQUEST)
            with pytest.raises(api.RefusedError) as refused:
                await seen(running)
        assert refused.value.reason == "too_many_watchers"
        await eventually(lambda: daemon.jobs.counts() == (0, 0))
        assert (await client.get_job(running.created.job.id)).state is api.JobState.COMPLETED
        assert await seen(running)
