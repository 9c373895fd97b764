"""A daemon that is killed leaves its sandboxes to the next one, and nobody inside can use the time between."""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, docker, events_of, one, types, until

pytestmark = pytest.mark.docker
SOLO = '[experts.solo]\ninstruction = "Work."\n'
WAIT_SECONDS = 30.0

BIND = """
import socket
try:
    socket.socket(socket.AF_UNIX).bind("/gw/runner.sock")
    print("bound")
except OSError as error:
    print(error.strerror)
"""

DIAL = """
import socket, struct, sys, time
sys.path.insert(0, "/opt/perstack/lib")
from perstack.v1 import runner_pb2 as pb
from perstack.v1.frames import LENGTH, frame
hello = pb.FromRunner(hello=pb.Hello(protocol_version=1, session_token="TOKEN"))
end = time.monotonic() + 60
while time.monotonic() < end:
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(5)
    try:
        link.connect("/gw/runner.sock")
        link.sendall(frame(hello))
        incoming = link.makefile("rb")
        first = pb.ToRunner.FromString(incoming.read(LENGTH.unpack(incoming.read(4))[0]))
    except (OSError, struct.error):
        time.sleep(0.02)
        continue
    print(first.WhichOneof("message"), first.rejected.reason, flush=True)
    break
"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="pa-", dir="/tmp") as directory:
        daemon = Daemon(Path(directory))
        daemon.start()
        try:
            yield daemon
        finally:
            daemon.stop()


def rows(daemon: Daemon, state: str) -> dict[str, dict[str, Any]]:
    """Sandboxes of a state, by container id."""
    return {row["containerId"]: row for row in daemon.json("sandbox", "ls") if row["state"] == state}


def eventually(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def full(daemon: Daemon) -> dict[str, dict[str, Any]]:
    """The idle ones, once there are two."""
    eventually(lambda: len(rows(daemon, "idle")) == 2)
    return rows(daemon, "idle")


def inside(container: str, uid: int, program: str) -> "subprocess.Popen[str]":
    command = ["docker", "exec", "--user", f"{uid}:{uid}", container, "python3", "-c", program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def said(process: "subprocess.Popen[str]") -> str:
    output, _ = process.communicate(timeout=90)
    return output.strip()


@contextmanager
def frozen(container: str) -> Iterator[None]:
    """Its runner stands still, so that it cannot come back before who tries to be it."""
    pids = [int(line.split()[0]) for line in docker("top", container, "-o", "pid,comm").splitlines()[1:]]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_job_goes_on_in_its_sandbox_in_the_middle_of_a_call_over_a_stop(daemon: Daemon) -> None:
    once = "echo made >> made; sleep 6; cat made"
    call = {"command": "sh", "args": ["-c", once], "stdout": True, "stderr": True}
    daemon.script("solo", {"calls": [{"id": "e", "name": "exec", "arguments": call}]}, {"text": "went on"})
    daemon.settings["jobs.drain_s"] = 0
    daemon.stop()
    daemon.start()
    watcher = daemon.begin(daemon.definition(SOLO), "solo")
    seen = until(watcher, "callTools")
    claimed = one(seen, "sandboxAssigned")["containerId"]
    idle = set(full(daemon))

    daemon.stop()
    left = set(docker("ps", "-q", "--no-trunc").split())
    assert (claimed in left, idle & left) == (True, set())
    daemon.start()

    rest, _ = watcher.communicate(timeout=60)
    events = [*seen, *events_of(rest)]
    assert one(events, "jobFinished")["answer"] == "went on"
    assert one(events, "sandboxAssigned")["containerId"] == claimed
    assert one(events, "sandboxReleased")["cause"] == "finished"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert json.dumps(one(events, "resolveToolResults")).count("made") == 1
    daemon.stop()
    assert str(daemon.home) not in Path("/proc/self/mountinfo").read_text()


def test_a_job_goes_on_in_its_sandbox_in_the_middle_of_a_call_and_idle_ones_live_on_and_serve(daemon: Daemon) -> None:
    once = "echo made >> made; sleep 6; cat made"
    call = {"command": "sh", "args": ["-c", once], "stdout": True, "stderr": True}
    daemon.script("solo", {"calls": [{"id": "e", "name": "exec", "arguments": call}]}, {"text": "went on"})
    directory = daemon.definition(SOLO)
    watcher = daemon.begin(directory, "solo")
    seen = until(watcher, "callTools")
    claimed = one(seen, "sandboxAssigned")["containerId"]
    idle = full(daemon)

    daemon.stop(signal.SIGKILL)
    assert set(docker("ps", "-q", "--no-trunc").split()) >= {claimed, *idle}
    daemon.start()

    rest, _ = watcher.communicate(timeout=60)
    assert watcher.returncode == 0
    events = [*seen, *events_of(rest)]
    assert one(events, "jobFinished")["answer"] == "went on"
    assert one(events, "sandboxAssigned")["containerId"] == claimed
    assert one(events, "sandboxReleased")["cause"] == "finished"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert json.dumps(one(events, "resolveToolResults")).count("made") == 1
    eventually(lambda: claimed not in docker("ps", "-aq", "--no-trunc").split())
    assert set(full(daemon)) == set(idle)

    daemon.script(
        "solo", {"calls": [{"id": "w", "name": "exec", "arguments": sleep("0.1")}]}, {"text": "from an adopted one"}
    )
    code, events, stderr = daemon.run(directory, "solo")
    assert code == 0, stderr
    assert one(events, "sandboxAssigned")["containerId"] in idle
    assert one(events, "jobFinished")["answer"] == "from an adopted one"
    assert "resolveToolResults" in types(events)


def test_an_adopted_sandbox_is_adopted_again_and_goes_with_a_daemon_that_is_stopped(daemon: Daemon) -> None:
    idle = set(full(daemon))
    for _ in range(2):
        daemon.stop(signal.SIGKILL)
        daemon.start()
        assert set(rows(daemon, "idle")) == idle
    daemon.stop()
    assert not idle & set(docker("ps", "-aq", "--no-trunc").split())
    assert str(daemon.home) not in Path("/proc/self/mountinfo").read_text()


def test_another_size_of_the_template_is_another_sandbox(daemon: Daemon) -> None:
    idle = set(full(daemon))
    daemon.stop(signal.SIGKILL)
    daemon.settings["templates.base.pids"] = 300
    daemon.start()
    assert len(full(daemon)) == 2
    assert not idle & set(rows(daemon, "idle"))
    assert not idle & set(docker("ps", "-aq", "--no-trunc").split())


def test_nobody_inside_can_make_the_socket_or_be_the_runner_without_its_token(daemon: Daemon) -> None:
    idle = full(daemon)
    container, row = next(iter(idle.items()))
    daemon.stop(signal.SIGKILL)
    gateway = daemon.home / "run/s" / row["id"] / "gw"
    assert said(inside(container, row["uid"], BIND)) == "Read-only file system"
    assert said(inside(container, 0, BIND)) == "Read-only file system"
    # The control: the same program elsewhere in the sandbox.
    assert said(inside(container, row["uid"], BIND.replace("/gw/", "/tmp/"))) == "bound"
    assert not (gateway / "runner.sock").exists()

    with frozen(container):
        stranger = inside(container, row["uid"], DIAL.replace("TOKEN", "0" * 32))
        starting = threading.Thread(target=daemon.start)
        starting.start()
        answer = said(stranger)
    starting.join(90)
    assert answer == "rejected this is not the session's token"
    assert set(rows(daemon, "idle")) == set(idle)
    assert not (gateway / "runner.sock").exists()
    assert "session_token" not in daemon.log()


def sleep(seconds: str) -> dict[str, Any]:
    return {"command": "sleep", "args": [seconds], "stdout": True, "stderr": True}
