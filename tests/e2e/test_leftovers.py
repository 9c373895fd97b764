"""What a sandbox leaves when nobody knows of it any more goes within 30 s; what only looks alike is never touched.

The engine is the test's own, and is made to forget containers: what is then found are real shims, cgroups, mounts and
sockets of a real containerd.
"""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon
from tests.integration.docker.forgetful_engine import ForgetfulEngine, cgroups_of, forgetful_engine

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]
GONE_SECONDS = 30.0
SHIM = "/usr/bin/containerd-shim-runc-v2"
SOCKETS = Path("/run/containerd/s")
STRANGER = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
IMAGE = "perstack/base:latest"


@pytest.fixture(scope="module")
def engine() -> Iterator[ForgetfulEngine]:
    with forgetful_engine(images=[IMAGE]) as engine:
        yield engine


@pytest.fixture
def daemon(engine: ForgetfulEngine) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="pl-", dir="/tmp") as home:
        made = Daemon(Path(home), {"engine.url": engine.url, "templates.base.min_idle": 1})
        made.start()
        try:
            yield made
        finally:
            made.stop()


def gone_in_time(is_gone: Callable[[], bool], since: float, what: str) -> None:
    while not is_gone():
        assert time.monotonic() < since + GONE_SECONDS, what
        time.sleep(0.2)


def an_idle_one(daemon: Daemon) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while not (idle := [row for row in daemon.json("sandbox", "ls") if row["state"] == "idle"]):
        assert time.monotonic() < deadline, daemon.log()[-2000:]
        time.sleep(0.1)
    return dict(idle[0])


def shim_of(container_id: str) -> int:
    """0 without one."""
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if arguments[:1] == [SHIM.encode()] and container_id.encode() in arguments and b"-c" not in arguments:
            return int(entry.name)
    return 0


def socket_of(engine: ForgetfulEngine, container_id: str) -> Path:
    address = f"{engine.home}/exec/containerd/containerd.sock/moby/{container_id}"
    return SOCKETS / sha256(address.encode()).hexdigest()


def processes_of(container_id: str) -> set[str]:
    procs = (Path(path, "cgroup.procs") for path in cgroups_of(container_id))
    return {pid for path in procs if path.exists() for pid in path.read_text().split()}


def stranger(engine: ForgetfulEngine, *options: str) -> str:
    """A container that runs, as someone else's daemon would have it."""
    command = ["--detach", "--network", "none", "--log-driver", "none", *options, "--entrypoint", "sleep", IMAGE, "900"]
    return engine.docker("run", *command)


@contextmanager
def lookalikes(container_id: str) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Processes that are called, and were started, as the shim of our container: one of root's that works in no bundle,
    and one of nobody's that works in a directory that is called like one.
    """
    with tempfile.TemporaryDirectory(prefix="la-", dir="/tmp") as home:
        Path(home).chmod(0o755)
        program = Path(home, "containerd-shim-runc-v2")
        shutil.copy("/bin/sh", program)
        bundle = Path(home, "io.containerd.runtime.v2.task/moby", container_id)
        bundle.mkdir(parents=True)
        called = [SHIM, "-c", "read line", "-namespace", "moby", "-id", container_id]
        fakes = [
            subprocess.Popen(called, executable=program, cwd=cwd, user=user, stdin=subprocess.PIPE)
            for cwd, user in ((home, 0), (bundle, 65534))
        ]
        try:
            yield fakes
        finally:
            for fake in fakes:
                fake.kill()
                fake.communicate(timeout=10)


def test_a_sandbox_that_the_engine_has_forgotten_goes_with_its_shim_cgroups_and_sockets(
    engine: ForgetfulEngine, daemon: Daemon
) -> None:
    own = an_idle_one(daemon)["containerId"]
    other = stranger(engine, "--label", "dev.perstack.daemon=another", "--name", f"perstack-{STRANGER}")
    plain = stranger(engine)
    foreign = [path.replace(own, "f" * 64) for path in cgroups_of(own) if "/pids/" in path or "/unified/" in path]
    assert shim_of(own)
    assert processes_of(own)
    assert socket_of(engine, own).is_socket()
    with lookalikes(own) as fakes, _directories(foreign):
        engine.forget(own, other, plain)
        since = time.monotonic()
        assert engine.docker("ps", "-aq", "--no-trunc", "--filter", f"id={own}") == ""
        gone_in_time(lambda: not processes_of(own), since, "its processes live")
        gone_in_time(lambda: not shim_of(own), since, "its shim lives")
        gone_in_time(lambda: not cgroups_of(own), since, f"its cgroups are there: {cgroups_of(own)}")
        gone_in_time(lambda: not socket_of(engine, own).exists(), since, "its shim's socket is there")
        gone_in_time(lambda: own not in Path("/proc/self/mountinfo").read_text(), since, "it is mounted")
        for container in (other, plain):
            assert shim_of(container)
            assert processes_of(container)
            assert cgroups_of(container)
            assert socket_of(engine, container).is_socket()
        assert [fake.poll() for fake in fakes] == [None, None]
        assert all(Path(path).is_dir() for path in foreign), "a cgroup that nobody noted is nobody's to remove"
    assert an_idle_one(daemon)["containerId"] != own


def test_mounts_and_sockets_and_containers_that_no_row_knows_go_and_what_looks_like_them_stays(
    engine: ForgetfulEngine, daemon: Daemon
) -> None:
    first = an_idle_one(daemon)
    label = f"dev.perstack.daemon={_daemon_id(engine, first['containerId'])}"
    orphan = "01ARZ3NDEKTSV4RRFFQ69G5FAW"
    ours = stranger(engine, "--label", label, "--name", f"perstack-{orphan}")
    named = stranger(engine, "--label", label, "--name", "somebodys-perstack")
    labelled = stranger(
        engine, "--label", "dev.perstack.daemon=another", "--name", "perstack-01ARZ3NDEKTSV4RRFFQ69G5FAX"
    )
    directories = [daemon.home / "run/s" / name for name in (orphan, "01ARZ3NDEKTSV4RRFFQ69G5FAX", "not-one-of-ours")]
    mine, unlabelled, foreign = directories
    with _planted(*directories):
        since = time.monotonic()
        gone_in_time(lambda: not engine.docker("ps", "-aq", "--filter", f"id={ours}"), since, "the container is there")
        gone_in_time(lambda: not mine.exists(), since, f"the directory is there: {_mounted_below(mine)}")
        gone_in_time(lambda: not unlabelled.exists(), since, "the other directory is there")
        assert _mounted_below(mine) == []
        assert _mounted_below(foreign) == [str(foreign / "slot/extra"), str(foreign / "slot/workspace")]
        assert (foreign / "gw/runner.sock").is_socket()
        running = engine.docker("ps", "-q", "--no-trunc").split()
        assert {named, labelled, first["containerId"]} <= set(running)
    engine.docker("rm", "-f", named, labelled)


def test_another_daemon_on_the_same_engine_is_never_touched(engine: ForgetfulEngine, daemon: Daemon) -> None:
    """The other one is dead, so nothing of it is held by anybody; and its container is forgotten as well."""
    own = an_idle_one(daemon)["containerId"]
    with tempfile.TemporaryDirectory(prefix="pm-", dir="/tmp") as home:
        second = Daemon(Path(home), {"engine.url": engine.url, "templates.base.min_idle": 1})
        second.start()
        theirs = an_idle_one(second)["containerId"]
        second.stop(signal.SIGKILL)
        engine.forget(own, theirs)
        since = time.monotonic()
        gone_in_time(lambda: not (processes_of(own) or shim_of(own) or cgroups_of(own)), since, "ours is there")
        assert processes_of(theirs)
        assert shim_of(theirs)
        second.start()
        since = time.monotonic()
        gone_in_time(lambda: not (processes_of(theirs) or shim_of(theirs) or cgroups_of(theirs)), since, "it is there")
        second.stop()


@contextmanager
def _directories(paths: Sequence[str]) -> Iterator[None]:
    for path in paths:
        Path(path).mkdir()
    try:
        yield
    finally:
        for path in paths:
            Path(path).rmdir()


def _daemon_id(engine: ForgetfulEngine, container_id: str) -> str:
    return engine.docker("inspect", "--format", '{{index .Config.Labels "dev.perstack.daemon"}}', container_id)


@contextmanager
def _planted(*directories: Path) -> Iterator[None]:
    """Directories as sandboxes have them: a socket, a workspace that is mounted, and a mount that none has."""
    for directory in directories:
        for part in ("gw", "id", "slot/workspace", "slot/extra"):
            (directory / part).mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(directory / "gw/runner.sock"))
        for part in ("slot/workspace", "slot/extra"):
            subprocess.run(["mount", "-t", "tmpfs", "none", str(directory / part)], check=True, timeout=20)
    try:
        yield
    finally:
        for path in (path for directory in directories for path in _mounted_below(directory)):
            subprocess.run(["umount", "-l", path], check=True, timeout=20)


def _mounted_below(directory: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sorted(line.split()[4] for line in lines if line.split()[4].startswith(f"{directory}/"))
