"""A job that is cancelled or paused, whatever it is doing: its runs stop within a second, and nothing lives on."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, docker
from tests.e2e.skill_servers import PROBE, RAW, Watched, call, expert, player, results, stdio, watched

pytestmark = pytest.mark.docker

GONE_SECONDS = 10.0
HANG = "import subprocess, time; subprocess.Popen(['setsid', 'sleep', 'SECONDS']); time.sleep(1000)"


@pytest.fixture(scope="module")
def daemon(home: Path) -> Iterator[Daemon]:
    settings = {
        "jobs.ask_hold_ms": 200,
        "templates.base.min_idle": 3,
        "templates.skills.image": "perstack/base:latest",
        "templates.skills.min_idle": 2,
        "templates.narrow.min_idle": 1,
        "templates.narrow.max": 1,
    }
    daemon = Daemon(home, settings)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


@contextmanager
def begun(daemon: Daemon, toml: str, *turns: dict[str, Any]) -> Iterator[Watched]:
    daemon.script("solo", *turns)
    with watched(daemon, daemon.definition(toml)) as job:
        yield job


def cancelled(job: Watched) -> None:
    """Cancel it: the runs' ends are written within a second of the order, and their sandboxes go at once."""
    containers = {event["containerId"] for event in job.of("sandboxAssigned")}
    assert job.ctl("cancel", "--reason", "enough").returncode == 0
    ordered = time.time()
    last = job.end()
    assert (last["exitCode"], last["outcome"]) == (5, "cancelled")
    assert all(event["timestamp"] / 1000 - ordered < 1 for event in job.of("stopRunByCancel"))
    assert last["timestamp"] / 1000 - ordered < 2
    until_gone(containers)


def until_gone(containers: set[str]) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while left := containers & set(docker("ps", "-aq", "--no-trunc").split()):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def commands(*words: str) -> Sequence[str]:
    """Command lines of this machine, sandboxes included, that end so."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text().split("\0")[:-1])
        except OSError:
            continue
    return [" ".join(line) for line in found if tuple(line[-len(words) :]) == words]


def until_running(*words: str) -> None:
    deadline = time.monotonic() + 20
    while not commands(*words):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- while it works ---------------------------------------------------------------------------------------------------
def test_a_command_with_a_descendant_in_a_session_of_its_own(daemon: Daemon) -> None:
    shell = {"command": "sh", "args": ["-c", "setsid sleep 74101 & sleep 74102"]}
    with begun(daemon, expert("solo"), {"calls": [call("e", "exec", **shell)]}) as job:
        until_running("sleep", "74101")
        job.until("callTools")
        cancelled(job)
    assert not [*commands("sleep", "74101"), *commands("sleep", "74102")]


@pytest.mark.parametrize(("isolation", "seconds"), [("own", "74103"), ("shared", "74104")])
def test_a_call_of_a_server_that_hangs(daemon: Daemon, isolation: str, seconds: str) -> None:
    toml = expert("solo") + stdio("solo", "probe", PROBE, "hang", isolation=isolation)
    with begun(daemon, toml, {"calls": [call("h", "hang", code=HANG.replace("SECONDS", seconds))]}) as job:
        until_running("sleep", seconds)
        job.until("callTools")
        cancelled(job)
    assert not commands("sleep", seconds)


@pytest.mark.parametrize("isolation", ["own", "shared"])
def test_the_start_of_a_skill_that_hangs(daemon: Daemon, isolation: str) -> None:
    toml = expert("solo") + stdio("solo", "raw", RAW, "no-handshake", isolation=isolation)
    with begun(daemon, toml, {"text": "never"}) as job:
        job.until("skillStarting")
        cancelled(job)
    assert not job.of("startRun")


def test_children_that_work(daemon: Daemon) -> None:
    toml = expert("solo", delegates=["helper"]) + expert("helper")
    daemon.script("helper", {"calls": [call("e", "exec", command="sleep", args=["74105"])]})
    delegations = [call("a", "helper", query="one"), call("b", "helper", query="two")]
    with begun(daemon, toml, {"calls": delegations}) as job:
        job.until("callTools", 3)
        cancelled(job)
        assert len(job.of("stopRunByCancel")) == 3
    assert not commands("sleep", "74105")


# --- while it waits ---------------------------------------------------------------------------------------------------
def test_a_parked_run(daemon: Daemon) -> None:
    with begun(daemon, expert("solo") + player("solo"), {"calls": [call("q", "askMove", question="Where?")]}) as job:
        job.until("stopRunByInteractiveTool")
        job.until("sandboxReleased")
        cancelled(job)
        assert job.ctl("answer", "here").returncode == 1


def test_a_job_that_waits_for_a_sandbox(daemon: Daemon) -> None:
    toml = 'runtime = "narrow"\n' + expert("solo")
    with begun(daemon, toml, {"calls": [call("e", "exec", command="sleep", args=["30"])]}) as first:
        first.until("callTools")
        with watched(daemon, daemon.definition(toml)) as second:
            second.until("jobQueued")
            assert second.state == "queued"
            assert second.ctl("pause").returncode == 0
            assert second.ctl("resume").returncode == 0
            cancelled(second)
        assert not second.of("sandboxAssigned")
        cancelled(first)


# --- paused -----------------------------------------------------------------------------------------------------------
def test_a_paused_job_finishes_its_step_begins_no_other_and_goes_on_when_it_is_resumed(daemon: Daemon) -> None:
    turns = {"calls": [call("e", "exec", command="sleep", args=["3"])]}, {"text": "done"}
    with begun(daemon, expert("solo"), *turns) as job:
        job.until("callTools")
        assert job.ctl("pause").returncode == 0
        job.until("continueToNextStep")
        assert daemon.json("job", "get", job.id)["paused"]
        assert job.ctl("resume").returncode == 0
        assert job.end()["exitCode"] == 0
    assert job.of("startGeneration")[-1]["seq"] > job.of("jobResumed")[0]["seq"]
    assert "e" in results(job.seen)


def test_a_job_that_is_paused_while_a_child_works_holds_both(daemon: Daemon) -> None:
    toml = expert("solo", delegates=["helper"]) + expert("helper")
    daemon.script("helper", {"calls": [call("e", "exec", command="sleep", args=["3"])]}, {"text": "the plan"})
    with begun(daemon, toml, {"calls": [call("d", "helper", query="x")]}, {"text": "done"}) as job:
        job.until("callTools", 2)
        assert job.ctl("pause").returncode == 0
        job.until("continueToNextStep")
        assert job.seen[-1]["expertKey"] == "helper"
        assert job.ctl("resume").returncode == 0
        assert job.end()["exitCode"] == 0
    resumed = job.of("jobResumed")[0]["seq"]
    assert [event["seq"] > resumed for event in job.of("startGeneration")] == [False, False, True, True]


def test_a_paused_job_is_cancelled(daemon: Daemon) -> None:
    with begun(daemon, expert("solo"), {"calls": [call("e", "exec", command="sleep", args=["3"])]}) as job:
        job.until("callTools")
        assert job.ctl("pause").returncode == 0
        job.until("continueToNextStep")
        cancelled(job)
        refused = job.ctl("resume")
    assert refused.returncode != 0 or "cancelled" in refused.stdout
