"""The power is cut: what was on the disk at that moment is all that is left.

The state directory is a file system of its own, in a file. What that file holds while everything stands still is what a
disk holds: what was only in the kernel's memory is not in it. The next daemon starts from a copy, after a mount that
replays its journal; sandboxes, mounts and the runtime directory are gone, as after a boot.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from perstackd.daemon import daemon_id
from tests.e2e.daemon import Daemon, docker, one, types
from tests.e2e.skill_servers import call, expert, python, results, watched
from tests.e2e.test_trouble import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]
DISK_BYTES = 128 << 20
ONCE = """
import os
with open("made", "a") as file:
    file.write("made\\n")
    file.flush()
    os.fsync(file.fileno())
"""
AND_WAIT = ONCE + "import time; time.sleep(600)\n"


class Host:
    """A machine with one disk, which is mounted at the daemon's state directory."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._number = 0
        self.disk = home / "disk0"
        with self.disk.open("wb") as file:
            file.truncate(DISK_BYTES)
        _run("mkfs.ext4", "-q", "-F", str(self.disk))
        (home / "state").mkdir(mode=0o700)
        self._mount()
        settings = {"templates.base.min_idle": 1, "workspaces.named_bytes": 32 << 20, "workspaces.named_inodes": 1024}
        self.daemon = Daemon(home, settings)

    def cut(self) -> None:
        """All at once; then it boots, and the daemon starts."""
        os.killpg(self.daemon.process.pid, signal.SIGSTOP)
        self._number += 1
        now = self.home / f"disk{self._number}"
        _run("cp", "--sparse=always", str(self.disk), str(now))
        os.killpg(self.daemon.process.pid, signal.SIGKILL)  # its helpers stand still as well
        self.daemon.stop()
        self._end()
        self.disk.unlink()
        self.disk = now
        self._mount()
        self.daemon.start()

    def close(self) -> None:
        self.daemon.stop()
        self._end()

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self.disk), str(self.home / "state"))
        (self.home / "state").chmod(0o700)

    def _end(self) -> None:
        """Nothing that a power cut does not leave."""
        label = f"label=dev.perstack.daemon={daemon_id(self.home / 'state')}"
        if left := docker("ps", "-aq", "--filter", label).split():
            docker("rm", "--force", *left)
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        below = [line.split()[4] for line in lines if line.split()[4].startswith(f"{self.home}/")]
        for path in reversed(below):
            _run("umount", "--lazy", path)
        shutil.rmtree(self.home / "run", ignore_errors=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@contextmanager
def machine() -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="pp-", dir="/tmp") as directory:
        made = Host(Path(directory))
        try:
            made.daemon.start()
            yield made
        finally:
            made.close()


@pytest.fixture
def host() -> Iterator[Host]:
    with machine() as made:
        yield made


def begin(daemon: Daemon) -> Path:
    daemon.script(
        "solo",
        {"calls": [python("once", ONCE)]},
        {"calls": [python("cut", AND_WAIT)]},
        {"calls": [call("read", "readTextFile", path="made")]},
        {"text": "went on"},
    )
    return daemon.definition(expert("solo"))


def whole(events: list[dict[str, Any]]) -> None:
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert len({event["id"] for event in events}) == len(events)


def test_a_job_in_a_named_workspace_goes_on_from_its_last_fact_and_what_was_told_is_kept(host: Host) -> None:
    with watched(host.daemon, begin(host.daemon), workspace="kept") as job:
        job.until("callTools", 2)
        told = list(job.seen)
        eventually(lambda: _at_work(host.daemon))
        host.cut()
        job.end()
        record = host.daemon.json("job", "get", job.id)
    whole(job.seen)
    assert job.seen[: len(told)] == told
    assert (record["state"], record["answer"]) == ("completed", "went on")
    assert [event["fence"] for event in job.seen if event["type"] == "sandboxAssigned"] == [1, 2]
    assert types(job.seen).count("startRun") == 1
    assert "may or may not have taken effect" in results(job.seen)["cut"]
    assert results(job.seen)["read"].count("made\\n") in (1, 2)  # the second is as durable as the call got
    assert "once" in results(job.seen)


def test_a_job_whose_workspace_was_memory_ends_and_says_so_and_the_next_one_runs(host: Host) -> None:
    directory = begin(host.daemon)
    with watched(host.daemon, directory) as job:
        job.until("callTools", 2)
        host.cut()
        job.end()
        record = host.daemon.json("job", "get", job.id)
    whole(job.seen)
    assert (record["state"], one(job.seen, "jobFinished")["reason"]) == ("failed", "workspace_lost")
    host.daemon.script("solo", {"text": "after the boot"})
    code, events, stderr = host.daemon.run(directory, "solo")
    assert code == 0, stderr
    assert one(events, "jobFinished")["answer"] == "after the boot"


def test_a_job_that_was_acknowledged_a_moment_ago_is_there_after_the_boot(host: Host) -> None:
    """Its place in the queue, its sealed values and its idempotency key as well."""
    host.daemon.script("solo", {"text": "done"})
    directory = host.daemon.definition(expert("solo"))
    begun = host.daemon.ctl("run", "solo", "do it", "--workspace", "kept", "--detach", cwd=directory)
    job_id = begun.stdout.strip()
    host.cut()
    eventually(lambda: host.daemon.json("job", "get", job_id)["state"] == "completed")
    assert [job["id"] for job in host.daemon.json("job", "ls")] == [job_id]


def _at_work(daemon: Daemon) -> bool:
    """Whether the call that is to be cut has begun: what it writes is there twice."""
    found = list((daemon.home / "state").rglob("made")) + list((daemon.home / "run").rglob("made"))
    return any(path.read_text().count("made") == 2 for path in found)
