"""A Docker engine of a test's own that forgets containers, as one does whose directory was lost: what it keeps of them
is deleted while it is dead. Their processes, shims and cgroups live on.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from perstackd.adapters.docker.cgroups import end_cgroups, remove_cgroup

START_SECONDS = 30.0


class ForgetfulEngine:
    """Started by `forgetful_engine`. Its containers live on while it is dead."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = f"unix://{home}/s"
        self._process: subprocess.Popen[bytes] | None = None
        self._forgotten: list[str] = []

    def docker(self, *arguments: str, check: bool = True) -> str:
        command = ["docker", "-H", self.url, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def start(self) -> None:
        command = [
            "unshare",
            "--net",
            "dockerd",
            "--live-restore",
            "--data-root",
            f"{self.home}/data",
            "--exec-root",
            f"{self.home}/exec",
        ]
        command += ["--pidfile", f"{self.home}/pid", "-H", self.url, "--bridge=none", "--iptables=false"]
        with (self.home / "log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while not self.docker("version", "--format", "{{.Server.Version}}", check=False):
            assert self._process.poll() is None, (self.home / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (self.home / "log").read_text()[-2000:]
            time.sleep(0.1)

    def forget(self, *container_ids: str) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)
        self._end_processes("containerd")
        for path in (self.home / "pid", self.home / "exec/containerd/containerd.pid"):
            path.unlink(missing_ok=True)  # where nobody reaps, a dead one looks as if it ran
        self._forgotten += container_ids
        for container_id in container_ids:
            shutil.rmtree(self.home / "data/containers" / container_id)
        self.start()

    def stop(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            if names := self.docker("ps", "-aq", check=False).split():
                self.docker("rm", "-f", *names, check=False)
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)
        for container_id in self._forgotten:
            end_cgroups(cgroups_of(container_id), container_id)
        self._end_processes("")
        for path in (path for container_id in self._forgotten for path in cgroups_of(container_id)):
            remove_cgroup(path)

    def _end_processes(self, program: str) -> None:
        """Of this engine, told by what only they have: its paths. They may outlive an engine that is killed."""
        own = f"{self.home}/exec/containerd/"
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                descriptor = os.pidfd_open(int(entry.name))
            except ProcessLookupError:
                continue
            try:
                called, *rest = _arguments(entry) or [""]
                if called.endswith(program) and any(part.startswith(own) for part in rest):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            except ProcessLookupError:
                continue
            finally:
                os.close(descriptor)


@contextmanager
def forgetful_engine(images: Sequence[str] = ()) -> Iterator[ForgetfulEngine]:
    """It runs; all that it made is gone afterwards, the forgotten as well."""
    home = Path(tempfile.mkdtemp(prefix="fe-", dir="/tmp"))
    engine = ForgetfulEngine(home)
    try:
        engine.start()
        for image in images:
            with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
                load = ["docker", "-H", engine.url, "load"]
                subprocess.run(load, stdin=saving.stdout, check=True, capture_output=True, timeout=100)
        yield engine
    finally:
        engine.stop()
        _unmount(home)
        shutil.rmtree(home, ignore_errors=True)


def _arguments(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def cgroups_of(container_id: str) -> tuple[str, ...]:
    """Where this machine's engines have a container's cgroups, of every hierarchy."""
    found = [*Path("/sys/fs/cgroup").glob(f"*/docker/{container_id}"), Path("/sys/fs/cgroup/docker", container_id)]
    return tuple(str(path) for path in found if path.is_dir())


def _unmount(home: Path) -> None:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    below = [line.split()[4] for line in lines if line.split()[4].startswith(f"{home}/")]
    for path in sorted(below, reverse=True):
        subprocess.run(["umount", "-l", path], check=True, timeout=20)
