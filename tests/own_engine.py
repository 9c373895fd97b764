"""A Docker engine of a test's own, to be restarted and frozen: the machine's never is. It has a network of its own too:
one without a bridge takes away the bridge of the network that it is in.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

START_SECONDS = 30.0
BASE = "perstack/base:latest"
LIVE_RESTORE = "--live-restore"

E = TypeVar("E", bound="OwnEngine")


class OwnEngine:
    """`options` are dockerd's; without `--live-restore` its containers end with it."""

    def __init__(self, home: Path, options: Sequence[str] = ()) -> None:
        self.home = home
        self.url = f"unix://{home}/s"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def docker(self, *arguments: str, check: bool = True) -> str:
        command = ["docker", "-H", self.url, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def running(self) -> set[str]:
        return set(self.docker("ps", "-q", "--no-trunc").split())

    def start(self) -> None:
        places = [
            "--data-root",
            f"{self.home}/data",
            "--exec-root",
            f"{self.home}/exec",
            "--pidfile",
            f"{self.home}/pid",
        ]
        command = ["unshare", "--net", "dockerd", *self._options, *places, "-H", self.url]
        command += ["--bridge=none", "--iptables=false"]
        with (self.home / "log").open("a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while not self.docker("version", "--format", "{{.Server.Version}}", check=False):
            assert self._process.poll() is None, (self.home / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (self.home / "log").read_text()[-2000:]
            time.sleep(0.1)

    def stop(self) -> None:
        """As a service manager does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(40)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It and its containerd stand still; containers run on."""
        assert self._process is not None
        pids = [self._process.pid, *self._children()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _children(self) -> list[int]:
        """Each is listed with the thread that made it."""
        assert self._process is not None
        files = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        return [int(pid) for file in files for pid in file.read_text().split()]

    def copy(self, image: str) -> None:
        """Give it an image of the machine's engine."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
            load = ["docker", "-H", self.url, "load"]
            subprocess.run(load, stdin=saving.stdout, check=True, capture_output=True, timeout=100)

    def close(self) -> None:
        """Nothing of it is left."""
        if self._process is not None and self._process.poll() is None:
            if names := self.docker("ps", "-aq", check=False).split():
                self.docker("rm", "-f", *names, check=False)
            self.stop()
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        below = [line.split()[4] for line in lines if line.split()[4].startswith(f"{self.home}/")]
        for path in sorted(below, reverse=True):
            subprocess.run(["umount", "-l", path], check=True, timeout=20)
        shutil.rmtree(self.home, ignore_errors=True)


@contextmanager
def own_engine(images: Sequence[str] = (BASE,), options: Sequence[str] = (LIVE_RESTORE,)) -> Iterator[OwnEngine]:
    """It runs and has the images; all that it made is gone afterwards."""
    with served(OwnEngine(Path(tempfile.mkdtemp(prefix="oe-", dir="/tmp")), options), images) as engine:
        yield engine


@contextmanager
def served(engine: E, images: Sequence[str]) -> Iterator[E]:
    """Start it, give it the images, and close it in the end."""
    try:
        engine.start()
        for image in images:
            engine.copy(image)
        yield engine
    finally:
        engine.close()
