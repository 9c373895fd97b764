"""A daemon in trouble: its disk is full, one of its sandboxes stands still. Real disks, real processes."""

import os
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.e2e.daemon import Daemon, docker, events_of, one, types, until
from tests.e2e.skill_servers import call, expert, python, results

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]
WAIT_SECONDS = 30.0
DISK_BYTES = 24 << 20


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pt-", dir="/tmp") as directory:
        yield Path(directory)


@contextmanager
def running(daemon: Daemon) -> Iterator[Daemon]:
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


@contextmanager
def disk(at: Path) -> Iterator[Path]:
    """A small file system of its own."""
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def eventually(true: Callable[[], Any], seconds: float = WAIT_SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def fill(at: Path) -> Path:
    """Take all the room that there is."""
    filler = at / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 65536):
            pass
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(b"\0" * 512):
            pass
    return filler


def store_is_healthy(daemon: Daemon) -> bool:
    with grpc.insecure_channel(f"unix:{daemon.socket}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        reply = stub.Check(health_pb2.HealthCheckRequest(service="store"), timeout=10)
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def test_on_a_full_disk_new_jobs_are_refused_running_ones_wait_and_go_on_once_there_is_room(home: Path) -> None:
    daemon = Daemon(home)
    wait_for_go = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.05)\n"
    daemon_files = home / "files"
    daemon_files.mkdir()
    os.chown(daemon_files, 1000, 1000)
    daemon.settings["workspace_roots"] = [str(daemon_files)]
    with disk(home / "state"), running(daemon):
        step = "open('made', 'a').write('made\\n'); print('x' * 20_000)"
        daemon.script(
            "solo",
            {"calls": [python("a", wait_for_go + step)]},
            {"calls": [python("b", step)]},
            {"calls": [call("c", "readTextFile", path="made")]},
            {"text": "went on"},
        )
        directory = daemon.definition(expert("solo"))
        watcher = daemon.begin(directory, "solo", "--workspace", str(daemon_files))
        seen = until(watcher, "callTools")
        assert store_is_healthy(daemon)
        filler = fill(home / "state")
        (daemon_files / "go").touch()
        eventually(lambda: not store_is_healthy(daemon))
        (job,) = daemon.json("job", "ls")
        assert job["state"] == "running"
        assert "the disk is full" in job["queueReason"]
        code, _, stderr = daemon.run(directory, "solo")
        assert (code, "the disk is full" in stderr) == (7, True), stderr
        filler.unlink()
        rest, _ = watcher.communicate(timeout=60)
        assert store_is_healthy(daemon)
    events = [*seen, *events_of(rest)]
    assert watcher.returncode == 0, daemon.log()[-2000:]
    assert one(events, "jobFinished")["answer"] == "went on"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert results(events)["c"].count("made\\n") == 2


def test_while_another_process_has_the_store_new_jobs_are_refused_running_ones_wait_and_nothing_told_is_lost(
    home: Path,
) -> None:
    daemon, files = Daemon(home, {"workspace_roots": [str(home / "files")]}), home / "files"
    files.mkdir()
    os.chown(files, 1000, 1000)
    with running(daemon):
        wait_for_go = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.05)\n"
        step = "open('made', 'a').write('made\\n'); print('x' * 20_000)"
        daemon.script(
            "solo",
            {"calls": [python("a", wait_for_go + step)]},
            {"calls": [python("b", step)]},
            {"calls": [call("c", "readTextFile", path="made")]},
            {"text": "went on"},
        )
        directory = daemon.definition(expert("solo"))
        watcher = daemon.begin(directory, "solo", "--workspace", str(files))
        seen = until(watcher, "callTools")
        with closing(sqlite3.connect(home / "state/perstackd.db", timeout=30, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            (files / "go").touch()
            eventually(lambda: not store_is_healthy(daemon))
            (job,) = daemon.json("job", "ls")
            assert (job["state"], "locked" in job["queueReason"]) == ("running", True), job
            code, _, stderr = daemon.run(directory, "solo")
            assert (code, "locked" in stderr) == (7, True), stderr
            assert len(daemon.json("job", "ls")) == 1
            other.execute("ROLLBACK")
        rest, _ = watcher.communicate(timeout=60)
        eventually(lambda: store_is_healthy(daemon))
        stored = events_of(daemon.ctl("job", "watch", job["id"], "--no-follow", "-o", "json").stdout)
    events = [*seen, *events_of(rest)]
    assert watcher.returncode == 0, daemon.log()[-2000:]
    assert one(events, "jobFinished")["answer"] == "went on"
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["id"] for event in stored] == [event["id"] for event in events]
    assert results(events)["c"].count("made\\n") == 2


STOPPED = """
import time
seen = time.monotonic()
while time.monotonic() - seen < 1:
    seen = time.monotonic()
    time.sleep(0.02)
print("RESURRECTED")
"""
"""It goes on for as long as nobody stops it."""


def test_a_sandbox_that_is_stopped_and_comes_to_life_again_changes_nothing_and_goes(home: Path) -> None:
    limits = {"jobs.tool_timeout_ms": 3000, "jobs.skill_start_timeout_ms": 1000, "jobs.answer_margin_ms": 2000}
    daemon = Daemon(home, limits)
    with running(daemon):
        daemon.script(
            "solo",
            {"calls": [python("a", STOPPED)]},
            {"calls": [python("b", "print('elsewhere')")], "delay": 1},
            {"text": "went on"},
        )
        watcher = daemon.begin(daemon.definition(expert("solo")), "solo")
        seen = until(watcher, "callTools")
        first = one(seen, "sandboxAssigned")["containerId"]
        pids = processes(first)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        seen += until(watcher, "sandboxAssigned")  # it is silent for too long, the run goes on elsewhere
        began = time.monotonic()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        rest, _ = watcher.communicate(timeout=60)
        eventually(lambda: first not in docker("ps", "-aq", "--no-trunc").split(), 30 - (time.monotonic() - began))
    events = [*seen, *events_of(rest)]
    assert watcher.returncode == 0, daemon.log()[-2000:]
    assert one(events, "jobFinished")["answer"] == "went on"
    assert "RESURRECTED" not in str([event for event in events if event["type"] != "callTools"])
    resumed = one(events, "resumeToolCalls")
    assert "did not go on in time" in str(resumed["results"])
    assert types(events).count("sandboxAssigned") == 2


def processes(container: str) -> list[int]:
    """All of the container; the engine is not asked, which takes its time or stands still."""
    (file,) = Path("/sys/fs/cgroup").glob(f"pids/docker/{container}/cgroup.procs")
    return [int(pid) for pid in file.read_text().split()]
