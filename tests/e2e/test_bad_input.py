"""What can be wrong, tried as a user would: one clear sentence with what to do, the right exit code, nothing lost,
no traceback.
"""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.daemon import BIN, Daemon, docker, one, until

pytestmark = pytest.mark.docker

SOLO = '[experts.solo]\ninstruction = "Work."\n'


def refused(daemon: Daemon, toml: str, *options: str, expert: str = "solo", query: str = "do it") -> tuple[int, str]:
    done = daemon.ctl("run", expert, query, "--workspace", "ephemeral", *options, cwd=daemon.definition(toml))
    assert "Traceback" not in done.stderr
    assert "Traceback" not in daemon.log()
    return done.returncode, done.stderr


def test_no_file_here_says_where_it_looked_and_that_there_is_no_registry(daemon: Daemon, tmp_path: Path) -> None:
    done = daemon.ctl("run", "nobody", "do it", cwd=tmp_path)
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert "registry" in done.stderr


@pytest.mark.parametrize(
    ("toml", "expert", "parts"),
    [
        (SOLO, "sloo", ("sloo", "solo", "registry")),
        ("[experts.solo\ninstruction = 1", "solo", ("perstack.toml", "1:")),
        ('[experts.solo]\ninstruction = "x"\ndelegates = ["ghost"]', "solo", ("ghost", "solo")),
        (
            '[experts.solo]\ninstruction="x"\ndelegates=["b"]\n[experts.b]\ninstruction="x"\ndelegates=["solo"]',
            "solo",
            ("solo -> b -> solo",),
        ),
        ('[provider]\nproviderName = "google"\n' + SOLO, "solo", ("google", "scripted")),
        ('[experts.solo]\ninstruction = "x"\nversion = "one"', "solo", ("3:", "version")),
    ],
    ids=["unknown expert", "bad TOML", "missing delegate", "cycle", "provider not there", "bad version"],
)
def test_a_definition_that_cannot_run_is_refused_with_its_place(
    daemon: Daemon, toml: str, expert: str, parts: tuple[str, ...]
) -> None:
    code, stderr = refused(daemon, toml, expert=expert)
    assert code in {1, 2}
    assert [part for part in parts if part not in stderr] == [], stderr


def test_an_unknown_key_is_a_warning_that_names_the_nearest(daemon: Daemon) -> None:
    daemon.script("solo", {"text": "done"})
    code, stderr = refused(daemon, '[experts.solo]\ninstrution = "x"\ninstruction = "Work."\n')
    assert code == 0
    assert "instrution" in stderr
    assert "instruction" in stderr


@pytest.mark.parametrize(
    ("options", "query", "part"),
    [
        ((), "x" * 1_100_000, "1 MiB"),
        ((), " ", "empty"),
        (("--allow-domain", "169.254.169.254"), "do it", "address"),
        (("--workspace", "/etc"), "do it", "workspace_roots"),
        (("--workspace", "../up"), "do it", "workspace"),
        (("--workspace", "Bad Name"), "do it", "name"),
    ],
    ids=["huge query", "empty query", "address as domain", "outside the roots", "path with dots", "bad name"],
)
def test_bad_requests_say_what_to_do(daemon: Daemon, options: tuple[str, ...], query: str, part: str) -> None:
    daemon.script("solo", {"text": "done"})
    directory = daemon.definition(SOLO)
    command = ["run", "solo", "-"] if len(query) > 100_000 else ["run", "solo", query]
    arguments = options if "--workspace" in options else ("--workspace", "ephemeral", *options)
    done = daemon.ctl(*command, *arguments, cwd=directory, stdin=query.encode())
    assert done.returncode != 0
    assert part in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_query_that_is_not_utf_8_is_refused(daemon: Daemon) -> None:
    done = daemon.ctl("run", "solo", "-", cwd=daemon.definition(SOLO), stdin=b"\xff\xfe broken")
    assert done.returncode == 2
    assert "UTF-8" in done.stderr


def test_a_workspace_of_root_is_refused_with_the_remedy(home: Path) -> None:
    place = home / "roots"
    place.mkdir()
    (place / "project").mkdir()
    daemon = Daemon(place, {"workspace_roots": [str(place)], "templates.base.min_idle": 1})
    daemon.start()
    try:
        daemon.script("solo", {"text": "done"})
        done = daemon.ctl("run", "solo", "do it", "--workspace", str(place / "project"), cwd=daemon.definition(SOLO))
        assert done.returncode == 6
        assert "uid" in done.stderr
        assert daemon.json("job", "ls") == []
        os.chown(place / "project", 1000, 1000)
        done = daemon.ctl("run", "solo", "do it", "--workspace", str(place / "project"), cwd=daemon.definition(SOLO))
        assert done.returncode == 0, done.stderr
    finally:
        daemon.stop()


def test_a_job_is_refused_with_the_remedy_where_its_model_has_no_key(home: Path) -> None:
    place = home / "keyless"
    place.mkdir()
    daemon = Daemon(place, {"templates.base.min_idle": 1}, real_providers=True)
    daemon.start()
    try:
        code, events, stderr = daemon.run(daemon.definition(SOLO), "solo", "--provider", "anthropic")
        assert (code, events) == (6, [])
        assert "ANTHROPIC_API_KEY" in stderr
        assert "perstackctl secret put --provider anthropic" in stderr
        assert json.loads(daemon.ctl("job", "ls", "-o", "json").stdout) == []
    finally:
        daemon.stop()


def test_an_image_that_is_missing_is_told_with_the_remedy(home: Path) -> None:
    place = home / "imageless"
    place.mkdir()
    daemon = Daemon(place, {"templates.base.image": "perstack/not-there:latest"})
    daemon.start()
    try:
        deadline = time.monotonic() + 20
        while "not-there" not in (status := daemon.ctl("pool", "status").stdout):
            assert time.monotonic() < deadline, status
        assert "make images" in status
        daemon.script("solo", {"text": "done"})
        process = daemon.begin(daemon.definition(SOLO), "solo")
        queued = one(until(process, "jobQueued"), "jobQueued")
        assert "not-there" in queued["reason"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 5
        process.communicate()
    finally:
        daemon.stop()


def test_an_engine_that_is_down_does_not_keep_the_daemon_from_telling_so(home: Path) -> None:
    place = home / "engineless"
    place.mkdir()
    daemon = Daemon(place, {"engine.url": f"unix://{place}/no-engine.sock"})
    daemon.start()
    try:
        info = daemon.ctl("system", "info").stdout
        assert "no-engine.sock" in info
        daemon.script("solo", {"text": "done"})
        process = daemon.begin(daemon.definition(SOLO), "solo")
        assert "engine" in one(until(process, "jobQueued"), "jobQueued")["reason"]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 5
        process.communicate()
    finally:
        daemon.stop()


def test_a_daemon_killed_in_the_middle_is_told_and_the_next_one_takes_the_job_up(home: Path) -> None:
    place = home / "killed"
    place.mkdir()
    daemon = Daemon(place)
    daemon.start()
    daemon.script("solo", {"text": "late", "delay": 3})
    process = daemon.begin(daemon.definition(SOLO), "solo", "--reconnect", "1")
    seen = until(process, "startGeneration")
    job, container = seen[0]["jobId"], one(seen, "sandboxAssigned")["containerId"]
    os.kill(daemon.process.pid, signal.SIGKILL)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 7
    assert "job watch" in stderr
    daemon.process.join(10)
    daemon.start()
    try:
        watched = daemon.ctl("job", "watch", job)
        assert watched.returncode == 0, watched.stderr
        assert daemon.json("job", "get", job)["answer"] == "late"
        deadline = time.monotonic() + 30
        while container in docker("ps", "-aq", "--no-trunc"):  # the job went on in it, and has just ended
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        daemon.stop()


def test_a_second_daemon_on_the_same_state_is_refused(daemon: Daemon) -> None:
    done = subprocess.run(
        [
            BIN / "perstackd",
            "serve",
            "--set",
            f"state_directory={daemon.home}/state",
            "--set",
            f"runtime_directory={daemon.home}/run",
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "another perstackd" in done.stderr
    assert daemon.ctl("system", "info").returncode == 0


def test_a_second_signal_stops_at_once_and_leaves_nothing_but_what_jobs_have(home: Path) -> None:
    place = home / "hasty"
    place.mkdir()
    daemon = Daemon(place)
    daemon.start()
    daemon.script("solo", {"text": "never", "delay": 60})
    process = daemon.begin(daemon.definition(SOLO), "solo", "--reconnect", "0")
    seen = until(process, "startGeneration")
    job, claimed = seen[0]["jobId"], one(seen, "sandboxAssigned")["containerId"]
    containers = {row["containerId"] for row in daemon.json("sandbox", "ls")}
    os.kill(daemon.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + 20
    while "draining" not in daemon.log():  # two signals at once would be one
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(daemon.process.pid, signal.SIGTERM)
    daemon.process.join(20)
    assert daemon.process.exitcode == 0
    process.communicate(timeout=30)
    assert containers & set(docker("ps", "-aq", "--no-trunc").split()) == {claimed}
    # The job is not lost, and neither are its sandbox and its workspace: the next daemon takes all up.
    daemon.start()
    try:
        assert daemon.json("job", "get", job)["state"] == "running"
        daemon.ctl("job", "cancel", job)
        assert daemon.ctl("job", "watch", job).returncode == 5
    finally:
        daemon.stop()
    assert str(place) not in Path("/proc/self/mountinfo").read_text()
