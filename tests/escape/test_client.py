"""A hostile client of the admin API: it gets an error that says so, and the daemon goes on."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
from perstack.v1 import jobs_pb2 as pb
from perstack.v1 import jobs_pb2_grpc

from tests.escape.attacker import Attacker, python

pytestmark = pytest.mark.docker

TOML = '[experts.solo]\ninstruction = "Work."\n'
Stub = jobs_pb2_grpc.JobServiceStub


@pytest.fixture
def channel(attacker: Attacker) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", 64 << 20)]
    with grpc.insecure_channel(f"unix:{attacker.daemon.socket}", options=options) as channel:
        yield channel


@pytest.fixture
def jobs(channel: grpc.Channel) -> Stub:
    return Stub(channel)


def request(workspace: pb.Workspace | None = None, toml: str = TOML, key: str = "solo") -> pb.CreateJobRequest:
    place = workspace or pb.Workspace(ephemeral=pb.Workspace.Ephemeral())
    return pb.CreateJobRequest(
        definition=pb.CreateJobRequest().definition.__class__(source="perstack.toml", toml=toml),
        expert_key=key,
        query="do it",
        workspace=place,
    )


def refused(call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    code: grpc.StatusCode = error.code()
    return code


def finished(jobs: Stub, job_id: str) -> pb.Job:
    for _ in jobs.WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=60):
        pass
    return jobs.GetJob(pb.GetJobRequest(job_id=job_id)).job


def raw(channel: grpc.Channel, method: str, message: bytes) -> object:
    call = channel.unary_unary(f"/perstack.v1.JobService/{method}", lambda data: data, lambda data: data)
    return call(message, timeout=10)


MALFORMED = [b"\xff" * 1000, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 50_000, b"\x1a" + b"\x80" * 20, b"\x08"]


@pytest.mark.parametrize("method", ["CreateJob", "GetJob", "ListJobs", "CancelJob"])
def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel, method: str) -> None:
    for message in MALFORMED:
        assert code_of(refused(partial(raw, channel, method, message))) is not grpc.StatusCode.OK


def test_the_refusal_of_a_malformed_message_names_no_class(channel: grpc.Channel) -> None:
    error = refused(lambda: raw(channel, "GetJob", MALFORMED[0]))
    assert code_of(error) is grpc.StatusCode.INVALID_ARGUMENT
    assert "class" not in str(error.details())


def test_a_giant_request_is_refused(channel: grpc.Channel) -> None:
    error = refused(lambda: raw(channel, "CreateJob", b"\x2a\x80\x80\x80\x05" + b"a" * (10 << 20)))
    assert code_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_giant_name_gets_an_error_that_can_be_read(jobs: Stub) -> None:
    error = refused(lambda: jobs.CreateJob(request(key="x" * (1 << 20))))
    assert code_of(error) in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}


@pytest.mark.parametrize("toml", ["a = " + "[" * 100_000, "a" + ".a" * 50_000 + " = 1\n"], ids=["arrays", "keys"])
def test_a_definition_that_nests_without_end_is_refused(jobs: Stub, toml: str) -> None:
    assert code_of(refused(lambda: jobs.CreateJob(request(toml=toml)))) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("path", ["../../etc", "relative", "/tmp/../etc", "\0", "", "/tmp/./x"])
def test_a_workspace_path_that_is_not_plain_is_refused_at_once(jobs: Stub, path: str) -> None:
    assert code_of(refused(lambda: jobs.CreateJob(request(pb.Workspace(path=path))))) is (
        grpc.StatusCode.INVALID_ARGUMENT
    )


@pytest.mark.parametrize("name", ["..", ".", "../x", "a/b", "", "-x", ".hidden", "a\nb", "a" * 64])
def test_a_workspace_name_that_is_no_name_is_refused_at_once(jobs: Stub, name: str) -> None:
    assert code_of(refused(lambda: jobs.CreateJob(request(pb.Workspace(name=name))))) is (
        grpc.StatusCode.INVALID_ARGUMENT
    )


@pytest.mark.parametrize("path", ["/", "/etc", "/proc/self/root", "/proc/1/root/etc", "//etc", "/etc/"])
def test_a_host_directory_that_is_below_no_root_is_refused(jobs: Stub, path: str) -> None:
    job = finished(jobs, jobs.CreateJob(request(pb.Workspace(path=path))).job.id)
    assert job.error_reason == "workspace_outside_roots"


@pytest.mark.parametrize("target", ["/etc", "/", "../.."])
def test_a_link_below_a_root_is_never_followed(attacker: Attacker, jobs: Stub, target: str) -> None:
    link = Path(attacker.project) / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    try:
        for path in (str(link), f"{link}/etc"):
            job = finished(jobs, jobs.CreateJob(request(pb.Workspace(path=path))).job.id)
            assert job.state == pb.JOB_STATE_FAILED
            assert job.error_reason.startswith("workspace_"), job.error_reason
    finally:
        link.unlink()


@pytest.mark.parametrize("cursor", [2**64 - 1, 1000])
def test_a_cursor_past_the_jobs_end_is_refused(attacker: Attacker, jobs: Stub, cursor: int) -> None:
    job_id = attacker.run().events[0]["jobId"]
    watch = pb.WatchJobRequest(job_id=job_id, after_seq=cursor)
    assert code_of(refused(lambda: list(jobs.WatchJob(watch, timeout=10)))) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("job_id", ["", "../" * 50, "\0", "0" * 26, "' or 1=1 --"])
def test_a_guessed_job_is_not_found(jobs: Stub, job_id: str) -> None:
    for call in (
        lambda: jobs.GetJob(pb.GetJobRequest(job_id=job_id)),
        lambda: jobs.CancelJob(pb.CancelJobRequest(job_id=job_id)),
        lambda: list(jobs.WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=10)),
    ):
        assert code_of(refused(call)) is grpc.StatusCode.NOT_FOUND


def test_another_tenant_is_not_there(jobs: Stub) -> None:
    error = refused(lambda: jobs.ListJobs(pb.ListJobsRequest(tenant="../default")))
    assert code_of(error) is grpc.StatusCode.NOT_FOUND


def resident(attacker: Attacker) -> int:
    pages = int(Path(f"/proc/{attacker.daemon.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_watchers_that_do_not_read_cost_the_daemon_little_memory(attacker: Attacker) -> None:
    name = attacker.name()
    flood = "import os, time\nfor _ in range(250): os.write(1, os.urandom(6000).hex().encode()); time.sleep(.02)"
    calls = [python(f"f{place}", flood, timeout=6000) for place in range(8)]
    attacker.daemon.script(name, {"calls": calls}, {"text": "done"})
    toml = f'[experts.{name}]\ninstruction = "Work."\n'
    channels = [
        grpc.insecure_channel(f"unix:{attacker.daemon.socket}", [("grpc.use_local_subchannel_pool", 1)])
        for _ in range(16)
    ]
    try:
        job_id = Stub(channels[0]).CreateJob(request(toml=toml, key=name)).job.id
        before = resident(attacker)
        watch = pb.WatchJobRequest(job_id=job_id, include_streaming=True)
        streams = [Stub(channel).WatchJob(watch) for channel in channels for _ in range(50)]
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline and resident(attacker) - before < 64 << 20:
            time.sleep(0.1)
        grown = resident(attacker) - before
        for stream in streams:
            stream.cancel()
    finally:
        for channel in channels:
            channel.close()
    assert grown < 64 << 20, f"{grown >> 20} MiB"
