"""The engine is restarted or stands still while jobs run. It is the test's own; what runs in it is real."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, one, running, types
from tests.e2e.skill_servers import call, expert, python, results, watched
from tests.e2e.test_trouble import eventually
from tests.own_engine import OwnEngine, own_engine

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]
WAIT = """
import os, time
open("made", "a").write("made\\n")
while not os.path.exists("go"):
    time.sleep(0.02)
print("went")
"""
GONE_SECONDS = 60.0


@pytest.fixture(scope="module")
def engine() -> Iterator[OwnEngine]:
    with own_engine() as engine:
        yield engine


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as directory:
        home = Path(directory)
        (home / "files").mkdir()
        os.chown(home / "files", 1000, 1000)
        yield Daemon(
            home, {"workspace_roots": [str(home / "files")], "engine.call_deadline_s": 2, "engine.start_deadline_s": 3}
        )


def begin(daemon: Daemon, engine: OwnEngine) -> Path:
    """The definition of a job that waits in a call for a file of its workspace; the pool is full."""
    daemon.script(
        "solo",
        {"calls": [python("wait", WAIT)]},
        {"calls": [call("made", "readTextFile", path="made")]},
        {"text": "went on"},
    )
    eventually(lambda: len(idle(daemon)) == 2)
    return daemon.definition(expert("solo"))


def idle(daemon: Daemon) -> set[str]:
    return {row["containerId"] for row in daemon.json("sandbox", "ls") if row["state"] == "idle"}


def at_work(job: Any, files: Path) -> str:
    """The container in which the call has begun."""
    job.until("callTools")
    eventually((files / "made").exists)
    return str(one(job.seen, "sandboxAssigned")["containerId"])


def whole(events: list[dict[str, Any]], sandboxes: int) -> None:
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert one(events, "jobFinished")["answer"] == "went on"
    assert types(events).count("sandboxAssigned") == sandboxes
    assert results(events)["made"].count("made\\n") == 1


def test_over_a_restart_of_an_engine_that_leaves_containers_alone_a_job_goes_on_where_it_is(
    engine: OwnEngine, daemon: Daemon
) -> None:
    daemon.settings["engine.url"] = engine.url
    files = daemon.home / "files"
    with running(daemon):
        directory = begin(daemon, engine)
        with watched(daemon, directory, workspace=str(files)) as job:
            claimed = at_work(job, files)
            engine.stop()
            engine.start()
            assert claimed in engine.running()
            (files / "go").touch()
            job.end()
        whole(job.seen, sandboxes=1)
        eventually(lambda: claimed not in engine.docker("ps", "-aq", "--no-trunc").split(), GONE_SECONDS)
        eventually(lambda: len(idle(daemon)) == 2, GONE_SECONDS)
        assert idle(daemon) <= engine.running()


def test_over_a_restart_of_an_engine_that_ends_containers_a_job_goes_on_in_fresh_ones(daemon: Daemon) -> None:
    files = daemon.home / "files"
    with own_engine(options=()) as engine:
        daemon.settings["engine.url"] = engine.url
        with running(daemon):
            directory = begin(daemon, engine)
            before = idle(daemon)
            with watched(daemon, directory, workspace=str(files)) as job:
                claimed = at_work(job, files)
                engine.stop()
                (files / "go").touch()
                engine.start()
                assert claimed not in engine.running()
                job.end()
            whole(job.seen, sandboxes=2)
            assert "may or may not" in results(job.seen)["wait"] or "interrupted" in results(job.seen)["wait"]
            eventually(lambda: len(idle(daemon)) == 2, GONE_SECONDS)
            assert not idle(daemon) & before
            eventually(lambda: idle(daemon) == engine.running(), GONE_SECONDS)
            gone = {*before, claimed}
            eventually(lambda: not gone & set(engine.docker("ps", "-aq", "--no-trunc").split()), GONE_SECONDS)


def test_while_an_engine_stands_still_warm_sandboxes_are_claimed_and_jobs_end_and_afterwards_the_pool_is_full(
    engine: OwnEngine, daemon: Daemon
) -> None:
    daemon.settings["engine.url"] = engine.url
    files = daemon.home / "files"
    with running(daemon):
        directory = begin(daemon, engine)
        warm = idle(daemon)
        daemon.script("quick", {"calls": [python("q", "print(6 * 7)")]}, {"text": "quick"})
        quick = daemon.definition(expert("quick"))
        with watched(daemon, directory, workspace=str(files)) as job:
            used = {at_work(job, files)}
            with engine.frozen():
                began = time.monotonic()
                code, events, stderr = daemon.run(quick, "quick")
                assert code == 0, stderr
                assert one(events, "jobFinished")["answer"] == "quick"
                assert results(events)["q"].count("42") == 1
                used.add(str(one(events, "sandboxAssigned")["containerId"]))
                (files / "go").touch()
                job.end()
                assert time.monotonic() - began < 20
                assert used == warm
                eventually(lambda: _blocked(daemon))
                waiting = daemon.begin(quick, "quick")
                eventually(lambda: [each for each in daemon.json("job", "ls") if each["state"] == "queued"])
            assert waiting.wait(60) == 0
        whole(job.seen, sandboxes=1)
        waiting.communicate(timeout=10)
        eventually(lambda: len(idle(daemon)) == 2, GONE_SECONDS)
        eventually(lambda: idle(daemon) == engine.running(), GONE_SECONDS)
        assert not used & set(engine.docker("ps", "-aq", "--no-trunc").split())


def test_a_daemon_that_is_killed_while_the_engine_stands_still_takes_its_job_up_without_it(
    engine: OwnEngine, daemon: Daemon
) -> None:
    daemon.settings["engine.url"] = engine.url
    files = daemon.home / "files"
    with running(daemon):
        directory = begin(daemon, engine)
        with watched(daemon, directory, workspace=str(files)) as job, engine.frozen():
            claimed = at_work(job, files)
            daemon.stop(signal.SIGKILL)
            daemon.start()
            (files / "go").touch()
            job.end()
        whole(job.seen, sandboxes=1)
        eventually(lambda: claimed not in engine.docker("ps", "-aq", "--no-trunc").split(), GONE_SECONDS)


def _blocked(daemon: Daemon) -> bool:
    """Whether the pool says why it does not refill."""
    status = daemon.json("pool", "status")
    (pool,) = status if isinstance(status, list) else (status,)
    return "engine" in str(pool["halted"]).lower()
