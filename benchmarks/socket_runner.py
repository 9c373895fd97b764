"""A runner that says as much as it can: `python -m benchmarks.socket_runner SOCKET COUNT`."""

import sys
from collections.abc import Iterator

import grpc
from perstack.v1 import runner_pb2 as pb
from perstack.v1 import runner_pb2_grpc

from perstackd.version import RUNNER_PROTOCOL

LINE = "a line of output, as a build or a test run prints many of them\n"


def messages(count: int) -> Iterator[pb.FromRunner]:
    """A hello, then `count` pieces of one call's output."""
    yield pb.FromRunner(hello=pb.Hello(protocol_version=RUNNER_PROTOCOL, runner_version="benchmark"))
    for number in range(count):
        yield pb.FromRunner(progress=pb.Progress(call_id="c", offset=number * len(LINE), delta=LINE))


def main(socket: str, count: int) -> None:
    """Say all of it, then stay until the daemon hangs up."""
    with grpc.insecure_channel(f"unix:{socket}", [("grpc.default_authority", "localhost")]) as channel:
        for _ in runner_pb2_grpc.RunnerServiceStub(channel).Attach(messages(count), wait_for_ready=True):
            pass


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
