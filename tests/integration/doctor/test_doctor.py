"""`perstackd doctor` on this machine: with all as it should be, beside a daemon, and with things taken away."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perstackd.adapters.state_lock import state_lock

pytestmark = pytest.mark.docker
PROGRAM = str(Path(sys.executable).with_name("perstackd"))


@pytest.fixture
def home() -> Iterator[Path]:
    """Short, for socket paths."""
    with tempfile.TemporaryDirectory(prefix="pdoc-") as directory:
        yield Path(directory)


def doctor(home: Path, *settings: str) -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
    own = (f"state_directory={home}/state", f"runtime_directory={home}/run")
    command = [PROGRAM, "doctor", "-o", "json", *(word for one in (*own, *settings) for word in ("--set", one))]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=90)
    assert done.stderr == ""
    return done.returncode, {(each["area"], each["check"]): each for each in json.loads(done.stdout)}


def leftovers(home: Path) -> list[str]:
    names = subprocess.run(
        ["docker", "ps", "--all", "--format", "{{.Names}}"], check=True, capture_output=True, text=True, timeout=30
    )
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(home) in line]
    return [name for name in names.stdout.split() if name.startswith("perstack-DOCTOR")] + mounts + os.listdir(home)


def test_a_machine_that_works_is_told_so_and_left_as_it_was(home: Path) -> None:
    code, found = doctor(home)
    assert code == 0, [each for each in found.values() if each["level"] == "error"]
    for check in ("image", "posture", "version", "late binding"):
        assert found["template base", check]["level"] == "ok"
    assert found["perstackd", "daemon"]["found"] == "has not run here yet"
    assert leftovers(home) == []


def test_it_runs_beside_a_daemon_whose_lock_it_does_not_take(home: Path) -> None:
    (home / "state/workspaces/default/.put-0123").mkdir(parents=True)
    with state_lock(home / "state"):
        code, found = doctor(home)
    assert code == 0
    assert found["perstackd", "daemon"]["found"] == f"runs, pid {os.getpid()}"
    assert (home / "state/workspaces/default/.put-0123").is_dir(), "what a daemon is unpacking is not the doctor's"
    assert sorted(leftovers(home)) == ["state"]
    assert sorted(os.listdir(home / "state")) == ["lock", "workspaces"]


def test_what_is_missing_is_an_error_with_its_remedy(home: Path) -> None:
    code, found = doctor(home, "templates.base.image=perstack/never:built", f'workspace_roots=["{home}/none"]')
    assert code == 1
    assert "make images" in found["template base", "image"]["remedy"]
    assert found["workspaces", f"root {home}/none"]["level"] == "error"


def test_an_image_with_another_runner_is_of_another_version(home: Path) -> None:
    tag = "perstack/doctor-test:other"
    dockerfile = (
        b"FROM perstack/base:latest\nUSER 0\nRUN echo '# changed' >>/opt/perstack/lib/perstack_runner/loop.py\n"
    )
    subprocess.run(
        ["docker", "build", "--network=none", "-t", tag, "-"],
        input=dockerfile,
        check=True,
        capture_output=True,
        timeout=90,
    )
    try:
        code, found = doctor(home, f"templates.base.image={tag}")
    finally:
        subprocess.run(["docker", "rmi", "--force", tag], check=True, capture_output=True, timeout=60)
    assert code == 1
    assert found["template base", "version"]["level"] == "error"


def test_without_an_engine_the_rest_is_examined(home: Path) -> None:
    code, found = doctor(home, f"engine.url=unix://{home}/none.sock")
    assert code == 1
    assert found["engine", "reachable"]["level"] == "error"
    assert found["workspaces", "state_directory"]["level"] == "ok"


def test_a_configuration_that_is_wrong_ends_with_2(home: Path) -> None:
    done = subprocess.run([PROGRAM, "doctor", "--set", "no_such=1"], check=False, capture_output=True, timeout=60)
    assert done.returncode == 2


def test_people_get_lines_and_a_verdict(home: Path) -> None:
    command = [
        PROGRAM,
        "doctor",
        "--set",
        f"state_directory={home}/state",
        "--set",
        f"runtime_directory={home}/run",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0
    assert "late binding: a marker came and went" in done.stdout
    assert "perstackd will work here" in done.stdout
