"""A hostile client of the admin API: it gets an error that says so, and the daemon goes on."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
from perstack.v1 import jobs_pb2 as pb
from perstack.v1 import jobs_pb2_grpc

from tests.escape.attacker import Attacker
from tests.escape.verdicts import attack, control

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


def raw(channel: grpc.Channel, method: str, message: bytes) -> bytes:
    call = channel.unary_unary(f"/perstack.v1.JobService/{method}", lambda data: data, lambda data: data)
    answer: bytes = call(message, timeout=10)
    return answer


@control("malformed_requests")
def test_the_same_client_is_heard_with_a_request(channel: grpc.Channel) -> None:
    assert pb.CreateJobResponse.FromString(raw(channel, "CreateJob", request().SerializeToString())).job.id


MALFORMED = [b"\xff" * 1000, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 50_000, b"\x1a" + b"\x80" * 20, b"\x08"]


@attack("malformed_requests")
@pytest.mark.parametrize("method", ["CreateJob", "GetJob", "ListJobs", "CancelJob"])
def test_bytes_that_are_no_message_are_refused(channel: grpc.Channel, method: str) -> None:
    for message in MALFORMED:
        assert code_of(refused(partial(raw, channel, method, message))) is not grpc.StatusCode.OK


def test_the_refusal_of_a_malformed_message_names_no_class(channel: grpc.Channel) -> None:
    error = refused(lambda: raw(channel, "GetJob", MALFORMED[0]))
    assert code_of(error) is grpc.StatusCode.INVALID_ARGUMENT
    assert "class" not in str(error.details())


@attack("malformed_requests")
def test_a_giant_request_is_refused(channel: grpc.Channel) -> None:
    error = refused(lambda: raw(channel, "CreateJob", b"\x2a\x80\x80\x80\x05" + b"a" * (10 << 20)))
    assert code_of(error) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_giant_name_gets_an_error_that_can_be_read(jobs: Stub) -> None:
    error = refused(lambda: jobs.CreateJob(request(key="x" * (1 << 20))))
    assert code_of(error) in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}


@pytest.mark.parametrize("toml", ["a = " + "[" * 100_000, "a" + ".a" * 50_000 + " = 1\n"], ids=["arrays", "keys"])
def test_a_definition_that_nests_without_end_is_refused(jobs: Stub, toml: str) -> None:
    assert code_of(refused(lambda: jobs.CreateJob(request(toml=toml)))) is grpc.StatusCode.INVALID_ARGUMENT


@attack("workspace_names")
@pytest.mark.parametrize("path", ["../../etc", "relative", "/tmp/../etc", "\0", "", "/tmp/./x"])
def test_a_workspace_path_that_is_not_plain_is_refused_at_once(jobs: Stub, path: str) -> None:
    assert code_of(refused(lambda: jobs.CreateJob(request(pb.Workspace(path=path))))) is (
        grpc.StatusCode.INVALID_ARGUMENT
    )


@control("workspace_names")
def test_a_name_that_is_one_and_a_path_below_a_root_are_taken(attacker: Attacker, jobs: Stub) -> None:
    for workspace in (pb.Workspace(name="plain"), pb.Workspace(path=str(attacker.project))):
        assert jobs.CreateJob(request(workspace)).job.id


@attack("workspace_names")
@pytest.mark.parametrize("name", ["..", ".", "../x", "a/b", "", "-x", ".hidden", "a\nb", "a" * 64])
def test_a_workspace_name_that_is_no_name_is_refused_at_once(jobs: Stub, name: str) -> None:
    assert code_of(refused(lambda: jobs.CreateJob(request(pb.Workspace(name=name))))) is (
        grpc.StatusCode.INVALID_ARGUMENT
    )


@attack("workspace_names")
@pytest.mark.parametrize("path", ["/", "/etc", "/proc/self/root", "/proc/1/root/etc", "//etc", "/etc/"])
def test_a_host_directory_that_is_below_no_root_is_refused(jobs: Stub, path: str) -> None:
    error = refused(lambda: jobs.CreateJob(request(pb.Workspace(path=path))))
    assert code_of(error) is grpc.StatusCode.PERMISSION_DENIED
    assert "workspace_roots" in str(error.details())


@attack("planted_link")
@pytest.mark.parametrize("target", ["/etc", "/", "../.."])
def test_a_link_below_a_root_is_never_followed(attacker: Attacker, jobs: Stub, target: str) -> None:
    link = Path(attacker.project) / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    try:
        for path in (str(link), f"{link}/etc"):
            error = refused(partial(jobs.CreateJob, request(pb.Workspace(path=path))))
            assert code_of(error) in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION}
            assert path in str(error.details())
    finally:
        link.unlink()


@control("planted_link")
def test_the_directory_itself_is_taken(attacker: Attacker) -> None:
    assert attacker.run(workspace=str(attacker.project)).code == 0
