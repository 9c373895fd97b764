"""The admin API over a real socket: what its errors carry, how large its replies are, what a gone watcher leaves."""

import gc
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import grpc
import grpc.aio
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status.rpc_status import from_call
from perstack.v1 import jobs_pb2 as pb
from perstack.v1 import jobs_pb2_grpc

from perstackd.app.system import System, SystemFacts
from perstackd.domain.errors import Kind, PerstackError
from perstackd.rpc import jobs as jobs_module
from perstackd.rpc.errors import CODES, status_of
from perstackd.rpc.server import AdminSocket, Api, admin_server
from tests.fakes.clock import FakeClock
from tests.fakes.models import Held
from tests.unit.app.daemon_in_memory import TEAM, World, world
from tests.unit.app.test_jobs import LEAD, calls, says

pytestmark = pytest.mark.anyio
LARGE = 300_000


@pytest.fixture
def root() -> Iterator[Path]:
    """Short, because socket paths are."""
    with tempfile.TemporaryDirectory(prefix="papi-", dir="/tmp") as path:
        yield Path(path)
    gc.collect()  # a gRPC server takes a lock when it is freed, which must not happen on the next test's loop


@asynccontextmanager
async def served(root: Path, turns: Any) -> AsyncIterator[tuple[World, Any]]:
    """A daemon and a client with gRPC's own limits."""
    async with world(root / "run", turns) as daemon:
        facts = SystemFacts("0.1.0", 1, ("/srv",), "/var/lib/perstackd", "scripted", "m")
        api = Api(daemon.jobs, daemon.pool, System(facts, daemon.sandboxes, daemon.pool, daemon.jobs))
        path = root / "admin" / "p.sock"
        async with admin_server(AdminSocket(path), api, FakeClock()), grpc.aio.insecure_channel(f"unix:{path}") as way:
            yield daemon, jobs_pb2_grpc.JobServiceStub(way)


def info_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    status = from_call(error)  # type: ignore[arg-type]
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_error_has_a_grpc_code(kind: Kind) -> None:
    status = status_of(PerstackError(kind, "some_reason", "what to do"))
    assert status.code == CODES[kind] != code_pb2.OK
    assert status.code != code_pb2.UNKNOWN


def test_no_two_kinds_share_a_code() -> None:
    assert len(set(CODES.values())) == len(CODES) == len(Kind)


async def first_reply(stub: Any) -> Any:
    return await stub.WatchJob(pb.WatchJobRequest(job_id="x")).read()


@pytest.mark.parametrize(
    "call", [lambda stub: stub.GetJob(pb.GetJobRequest(job_id="x")), first_reply], ids=["unary", "watch"]
)
async def test_an_unforeseen_error_crosses_the_wire_as_a_log_id_and_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any) -> Any:
        raise ZeroDivisionError("s3cret-text")

    async with served(root, {LEAD: [says("done")]}) as (daemon, stub):
        monkeypatch.setattr(daemon.jobs, "get", broken)
        with caplog.at_level(logging.DEBUG), pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(stub)
    error = caught.value
    assert error.code() == grpc.StatusCode.INTERNAL
    info = info_of(error)
    assert (info.reason, list(info.metadata)) == ("internal", ["log_id"])
    everything = f"{error.details()} {info} {error.debug_error_string()} {error.trailing_metadata()}"
    for word in ("s3cret-text", "ZeroDivision", "Traceback", ".py"):
        assert word not in everything


MALFORMED = [b"\xff" * 1000, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 50_000, b"\x08", b"\x0a\x01\xff"]


@pytest.mark.parametrize("method", ["perstack.v1.JobService/GetJob", "grpc.health.v1.Health/Check"])
@pytest.mark.parametrize("message", MALFORMED, ids=["ones", "length", "groups", "end", "no-utf8"])
async def test_bytes_that_are_no_message_are_refused_with_a_reason_and_no_class_name(
    root: Path, method: str, message: bytes
) -> None:
    async with served(root, {LEAD: [says("done")]}), grpc.aio.insecure_channel(f"unix:{root}/admin/p.sock") as way:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await way.unary_unary(f"/{method}", lambda data: data, lambda data: data)(message, timeout=10)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(caught.value).reason == "message_malformed"
    assert "class" not in str(caught.value.details())


@pytest.mark.parametrize("method", ["perstack.v1.JobService/WatchJob", "grpc.health.v1.Health/Watch"])
async def test_a_malformed_watch_is_refused_too(root: Path, method: str) -> None:
    async with served(root, {LEAD: [says("done")]}), grpc.aio.insecure_channel(f"unix:{root}/admin/p.sock") as way:
        call = way.unary_stream(f"/{method}", lambda data: data, lambda data: data)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(MALFORMED[0], timeout=10).read()
    assert info_of(caught.value).reason == "message_malformed"


async def test_the_services_that_grpc_brings_still_answer(root: Path) -> None:
    async with served(root, {LEAD: [says("done")]}), grpc.aio.insecure_channel(f"unix:{root}/admin/p.sock") as way:
        health: Any = health_pb2_grpc.HealthStub(way)
        reply = await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        watched = await health.Watch(health_pb2.HealthCheckRequest(), timeout=10).read()
        assert watched.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="none"), timeout=10)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "\n" * 5000, "é" * 5000, "\U0001f600" * 5000, "a\ud800b", "%" * 9000], ids=lambda t: t[:1]
)
async def test_a_message_of_any_size_and_script_arrives_with_its_reason(
    root: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    async def refused(*_: Any) -> Any:
        fields = {f"field{n}": text for n in range(8)} if len(text) < 10 else {"name": text}
        raise PerstackError(Kind.INVALID, "definition_invalid", text, fields=fields)

    async with served(root, {}) as (daemon, stub):
        monkeypatch.setattr(daemon.jobs, "get", refused)
        for _ in range(10):  # peers refuse long trailers at random
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.GetJob(pb.GetJobRequest(job_id="x"))
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert info_of(caught.value).reason == "definition_invalid"


async def test_a_long_log_of_large_events_arrives_within_the_limits_of_every_client(root: Path) -> None:
    big: dict[str, object] = {"text": "x" * LARGE}
    turns = [*(calls((f"a{n}", "exec", big)) for n in range(20)), says("done")]
    async with served(root, {LEAD: turns}) as (daemon, stub):
        record, events = await daemon.finished()
        with anyio.fail_after(20):
            replies = [reply async for reply in stub.WatchJob(pb.WatchJobRequest(job_id=record.id))]
    assert [event.seq for reply in replies for event in reply.events] == [event.seq for event in events]
    assert max(reply.ByteSize() for reply in replies) < jobs_module.WATCH_BYTES + LARGE
    assert len(replies) > 2


async def test_pages_of_jobs_with_long_queries_go_on_where_the_reply_was_full(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_module, "REPLY_BYTES", 2 * LARGE)
    async with served(root, {LEAD: [says("done")]}) as (daemon, stub):
        made = [(await daemon.start(query="x" * LARGE)).id for _ in range(5)]
        seen, token = list[str](), ""
        for _ in range(10):
            reply = await stub.ListJobs(pb.ListJobsRequest(page_token=token))
            seen.extend(job.id for job in reply.jobs)
            if not (token := reply.next_page_token):
                break
    assert seen == sorted(made, reverse=True)


async def test_a_watcher_that_goes_away_leaves_nothing_behind(root: Path) -> None:
    held = Held(says("done"))
    async with served(root, {LEAD: [held]}) as (daemon, stub):
        record = await daemon.start()
        call = stub.WatchJob(pb.WatchJobRequest(job_id=record.id, include_streaming=True))
        with anyio.fail_after(5):
            await held.reached.wait()
            await call.read()
            channel = daemon.jobs._feed._channels[record.id]
            assert len(channel.watchers) == 1
            call.cancel()
            while channel.watchers:
                await anyio.lowlevel.checkpoint()
        held.release.set()
        await daemon.events(record.id)
    assert daemon.jobs._feed._channels == {}


async def test_a_slow_watcher_never_holds_the_job(root: Path) -> None:
    big: dict[str, object] = {"text": "x" * LARGE}
    turns = [*(calls((f"a{n}", "exec", big)) for n in range(20)), says("done")]
    async with served(root, {LEAD: turns}) as (daemon, stub):
        record = await daemon.start()
        call = stub.WatchJob(pb.WatchJobRequest(job_id=record.id))  # never read
        events = await daemon.events(record.id)
        assert events[-1].payload.type == "jobFinished"
        call.cancel()


async def test_a_socket_in_a_directory_of_others_is_refused_and_the_directory_is_left_as_it_was(root: Path) -> None:
    shared = root / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    async with world(root / "run", {}) as daemon:
        api = Api(daemon.jobs, daemon.pool, None)  # type: ignore[arg-type]
        with pytest.raises(PerstackError) as caught:
            async with admin_server(AdminSocket(shared / "p.sock"), api, FakeClock()):
                pass
    assert caught.value.reason == "socket_directory_open"
    assert shared.stat().st_mode & 0o7777 == 0o1777


async def test_the_socket_and_its_own_directory_are_closed_to_others(root: Path) -> None:
    umask = os.umask(0)
    try:
        async with served(root, {}):
            assert (root / "admin").stat().st_mode & 0o7777 == 0o750
            assert (root / "admin" / "p.sock").stat().st_mode & 0o7777 == 0o660
    finally:
        os.umask(umask)


async def test_an_open_runtime_directory_of_our_own_is_closed(root: Path) -> None:
    own = root / "own"
    own.mkdir(mode=0o755)
    async with world(root / "run", {}) as daemon:
        api = Api(daemon.jobs, daemon.pool, None)  # type: ignore[arg-type]
        async with admin_server(AdminSocket(own / "p.sock", own=own), api, FakeClock()):
            assert own.stat().st_mode & 0o7777 == 0o750


async def test_a_name_of_a_model_without_end_is_refused(root: Path) -> None:
    async with served(root, {}) as (_, stub):
        definition = pb.CreateJobRequest().definition
        definition.toml = TEAM
        request = pb.CreateJobRequest(definition=definition, expert_key="lead", query="x", model="m" * 1000)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CreateJob(request)
    assert info_of(caught.value).reason == "model_invalid"
