"""A runner that says as much as it can: `python -m benchmarks.socket_runner SOCKET COUNT`."""

import socket
import sys
from collections.abc import Iterator
from typing import Final

from perstack.v1 import runner_pb2 as pb
from perstack.v1.frames import frame

from perstackd.version import RUNNER_PROTOCOL

LINE: Final = "a line of output, as a build or a test run prints many of them\n"
DIAL_SECONDS: Final = 30.0


def messages(count: int) -> Iterator[pb.FromRunner]:
    """A hello, then `count` pieces of one call's output."""
    yield pb.FromRunner(hello=pb.Hello(protocol_version=RUNNER_PROTOCOL, runner_version="benchmark"))
    for number in range(count):
        yield pb.FromRunner(progress=pb.Progress(call_id="c", offset=number * len(LINE), delta=LINE))


def main(path: str, count: int) -> None:
    """Say all of it, each message by itself, then stay until the daemon hangs up."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(path)
        for message in messages(count):
            link.sendall(frame(message))
        while link.recv(1 << 16):
            pass


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
