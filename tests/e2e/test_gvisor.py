"""Jobs in gVisor sandboxes: a real engine with runsc, the real daemon, a named workspace, the posture of both sides."""

import json
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, one
from tests.integration.docker.private_engine import OPTIONS, private_engine, runsc

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]
TOML = '[experts.writer]\ninstruction = "Write."\n'


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    with private_engine(runsc(), images=["perstack/base:latest"]) as url:
        yield url


def daemon_of(home: Path, url: str) -> Daemon:
    settings = {"engine.url": url, "templates.base.runtime": "runsc", "templates.base.min_idle": 1}
    return Daemon(home, {**settings, "workspaces.named_bytes": 32 << 20})


@pytest.fixture(scope="module")
def daemon(engine: str) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="pgv-") as home:
        made = daemon_of(Path(home), engine)
        made.start()
        try:
            yield made
        finally:
            made.stop()


def script(daemon: Daemon, command: str) -> Path:
    call = {"id": "c", "name": "exec", "arguments": {"command": "sh", "args": ["-c", command], "stdout": True}}
    daemon.script("writer", {"calls": [call]}, {"text": "done"})
    return daemon.definition(TOML)


def test_a_job_runs_in_a_gvisor_sandbox_and_its_files_come_back(daemon: Daemon, tmp_path: Path) -> None:
    directory = script(daemon, "dmesg | head -1; uname -v; echo kept > file; mkdir d; echo deep > d/f; cat file")
    code, events, errors = daemon.run(directory, "writer", workspace="notes")
    assert code == 0, errors
    said = str(one(events, "resolveToolResults"))
    assert "gVisor" in said or "2016" in said, "the guest's kernel is gVisor's"
    assert "kept" in said
    assert daemon.ctl("workspace", "get", "notes", "-C", str(tmp_path)).returncode == 0
    assert (tmp_path / "d/f").read_text() == "deep\n"


def test_the_doctor_sees_into_a_gvisor_sandbox(engine: str) -> None:
    program = Path(sys.executable).with_name("perstackd")
    with tempfile.TemporaryDirectory(prefix="pgv-") as home:
        settings = (f"engine.url={engine}", "templates.base.runtime=runsc", f"state_directory={home}/state")
        options = [word for each in (*settings, f"runtime_directory={home}/run") for word in ("--set", each)]
        done = subprocess.run(
            [program, "doctor", "-o", "json", *options], capture_output=True, text=True, timeout=120, check=False
        )
    assert done.stdout, done.stderr
    found = {each["check"]: each for each in json.loads(done.stdout) if each["area"] == "template base"}
    assert {name: each["level"] for name, each in found.items()} == dict.fromkeys(
        ("image", "posture", "version", "late binding"), "ok"
    ), found


def test_its_posture_is_that_of_the_sentry_and_of_the_guest(daemon: Daemon) -> None:
    deadline = time.monotonic() + 30
    while not (idle := [box for box in daemon.json("sandbox", "ls") if box["state"] == "idle"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    posture = daemon.json("sandbox", "posture", idle[0]["id"])
    assert posture["ok"], [check for check in posture["checks"] if not check["ok"]]
    sources = {check["name"]: check["source"] for check in posture["checks"]}
    assert sources["sentry options"] == "kernel"
    assert sources["guest seccomp"] == "runner"
    assert idle[0]["runtime"] == "runsc"


def test_a_read_only_workspace_stays_as_it_is(daemon: Daemon) -> None:
    directory = script(daemon, "echo x > new 2>&1; echo x > file; cat file; id -u")
    code, events, errors = daemon.run(directory, "writer", "--read-only", workspace="notes")
    assert code == 0, errors
    assert "kept" in str(one(events, "resolveToolResults"))


def refusal(url: str) -> str:
    """What a waiting job is told."""
    with tempfile.TemporaryDirectory(prefix="pgv-") as home:
        daemon = daemon_of(Path(home), url)
        daemon.start()
        try:
            (pool,) = daemon.json("pool", "status")
            return str(pool["halted"])
        finally:
            daemon.stop()


def test_an_engine_without_the_options_is_refused_in_one_sentence() -> None:
    with private_engine(runsc(), options=["--network=none"]) as url:
        _copy_tag(url)
        said = refusal(url)
    assert "the engine starts runsc without --oci-seccomp=true and --host-uds=open" in said
    assert "daemon.json" in said


def test_a_gvisor_that_is_too_old_is_refused_in_one_sentence(tmp_path: Path) -> None:
    old = tmp_path / "runsc"
    old.write_text("#!/bin/sh\necho runsc version 0.0~20221219.0\n")
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    with private_engine(str(old), options=OPTIONS) as url:
        _copy_tag(url)
        said = refusal(url)
    assert "runsc must be 20240729 or newer, the engine's is 20221219" in said


def _copy_tag(url: str) -> None:
    """An image of the name, small: nothing is started of it."""
    with tempfile.TemporaryDirectory() as empty:
        subprocess.run(["tar", "-C", empty, "-cf", f"{empty}.tar", "."], check=True, timeout=20)
    command = ["docker", "-H", url, "import", "--change", 'ENTRYPOINT ["/x"]', f"{empty}.tar", "perstack/base:latest"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    Path(f"{empty}.tar").unlink()
