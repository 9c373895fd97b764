"""An engine of its own, to be stopped and resumed: the host's is never touched."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.failure import MeasurementError
from benchmarks.processes import children

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 30.0
LOAD_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class PrivateEngine:
    """`url` is its address."""

    pid: int
    url: str

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stopped by SIGSTOP, its containerd included; the containers run on."""
        pids = [self.pid, *(pid for pid in children(self.pid))]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(pids):
                os.kill(pid, signal.SIGCONT)


@contextmanager
def private_engine(directory: Path, image: str) -> Iterator[PrivateEngine]:
    """A dockerd that has one image, taken from the host's engine. Raises MeasurementError when it does not come up."""
    home = Path(tempfile.mkdtemp(prefix="perstackd-engine-", dir=directory))
    url = f"unix://{home}/docker.sock"
    places = [f"--data-root={home}/data", f"--exec-root={home}/exec", f"--pidfile={home}/pid", f"--host={url}"]
    with (home / "log").open("wb") as log:
        # a network of its own: an engine without a bridge removes docker0, which is the host engine's
        command = ["unshare", "--net", "dockerd", *places, "--bridge=none", "--iptables=false"]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _await(home / "docker.sock", process, home / "log")
        _copy(image, url)
        yield PrivateEngine(process.pid, url)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _unmount_below(home)
        shutil.rmtree(home, ignore_errors=True)


def _await(socket: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while (
        not socket.exists()
        or subprocess.run(
            ["docker", "--host", f"unix://{socket}", "version"], capture_output=True, timeout=20, check=False
        ).returncode
    ):
        if process.poll() is not None or time.monotonic() > deadline:
            raise MeasurementError(f"a private dockerd did not come up: {log.read_text(errors='replace')[-1000:]}")
        time.sleep(0.1)


def _copy(image: str, url: str) -> None:
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        loaded = subprocess.run(
            ["docker", "--host", url, "load", "--quiet"],
            stdin=saving.stdout,
            capture_output=True,
            timeout=LOAD_SECONDS,
            check=False,
        )
    if loaded.returncode or saving.returncode:
        raise MeasurementError(f"{image} could not be copied: {loaded.stderr.decode(errors='replace')[:500]}")


def _unmount_below(home: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if mount.startswith(f"{home}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], capture_output=True, timeout=30, check=False)
