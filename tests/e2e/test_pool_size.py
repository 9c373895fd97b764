"""A real pool sizes itself by the claims that come, stops its refill at a watermark, and says why wherever asked."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, one

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]
SOLO = '[experts.solo]\ninstruction = "Work."\n'
HUGE = 1 << 60
WAIT_SECONDS = 60.0


@contextmanager
def running(settings: Mapping[str, Any]) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="ps-", dir="/tmp") as home:
        daemon = Daemon(Path(home), {"templates.base.min_idle": 1, "templates.base.max": 6, **settings})
        daemon.start()
        try:
            yield daemon
        finally:
            daemon.stop()


def base(daemon: Daemon) -> dict[str, Any]:
    return next(dict(pool) for pool in daemon.json("pool", "ls") if pool["template"] == "base")


def eventually(daemon: Daemon, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + WAIT_SECONDS
    while not wanted(pool := base(daemon)):
        assert time.monotonic() < deadline, pool
        time.sleep(0.2)
    return pool


def test_a_burst_of_claims_grows_what_is_kept_idle() -> None:
    with running({}) as daemon:
        before = eventually(daemon, lambda pool: pool["idle"] == 1)
        assert (before["minIdle"], before["wantedIdle"]) == (1, 1)
        daemon.script("solo", {"text": "done"})
        directory = daemon.definition(SOLO)
        jobs = [daemon.begin(directory, "solo") for _ in range(14)]
        for job in jobs:
            assert job.communicate(timeout=120)[0]
            assert job.returncode == 0
        grown = eventually(daemon, lambda pool: pool["wantedIdle"] > 1 and pool["idle"] >= pool["wantedIdle"])
        assert 1 < grown["wantedIdle"] <= grown["max"] == 6
        assert grown["claimedTotal"] == 14
        shown = daemon.ctl("pool", "ls", env={"COLUMNS": "160"}).stdout.splitlines()
        (row,) = [line.split() for line in shown if line.startswith("base ")]
        assert row[shown[0].split().index("WANTED")] == str(base(daemon)["wantedIdle"])


@pytest.mark.parametrize(
    ("key", "said"),
    [("pool.min_free_memory", "MiB of memory are available"), ("pool.min_free_disk", "MiB are free on the disk of")],
)
def test_at_a_watermark_the_refill_stops_claims_are_served_and_the_cause_is_named(key: str, said: str) -> None:
    with running({key: HUGE}) as daemon:
        eventually(daemon, lambda pool: pool["idle"] == 1 and said in pool["halted"])
        for command in (("pool", "ls"), ("pool", "status"), ("sandbox", "ls")):
            told = " ".join(daemon.ctl(*command).stdout.split())
            assert "base stands still: no refill, claims are still served: only" in told, command
            assert said in told
        daemon.script("solo", {"text": "done"})
        directory = daemon.definition(SOLO)
        for _ in range(2):  # the idle one, then one that is started for the claim
            code, events, errors = daemon.run(directory, "solo")
            assert code == 0, errors
            assert one(events, "jobFinished")["answer"] == "done"
        pool = eventually(daemon, lambda pool: pool["claimed"] == 0 and pool["removing"] == 0)
        assert (pool["idle"], pool["starting"]) == (0, 0)
        finding = doctor(daemon, f"{key}={HUGE}")
        assert finding["level"] == "warning"
        assert said in finding["found"]


def doctor(daemon: Daemon, setting: str) -> dict[str, Any]:
    own = (f"state_directory={daemon.home}/state", f"runtime_directory={daemon.home}/run", setting)
    program = str(Path(sys.executable).with_name("perstackd"))
    command = [program, "doctor", "-o", "json", *(word for each in own for word in ("--set", each))]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    found = {(each["area"], each["check"]): each for each in json.loads(done.stdout)}
    return dict(found["room", "watermarks"])
