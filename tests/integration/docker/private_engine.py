"""A Docker engine of a test's own, with gVisor as a runtime: the machine's is never reconfigured."""

import json
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[3]
# Newer kernels show in every network namespace what gVisor takes for a sign of the machine's own; sandboxes have no
# network but loopback anyway.
OPTIONS = ("--oci-seccomp", "--host-uds=open", "--network=none")
START_SECONDS = 30


def runsc() -> str:
    """The program, which the project's own command brings."""
    done = subprocess.run([ROOT / "tools/runsc"], check=True, capture_output=True, text=True, timeout=110)
    return done.stdout.strip()


@contextmanager
def private_engine(program: str, options: Sequence[str] = OPTIONS, images: Sequence[str] = ()) -> Iterator[str]:
    """The engine's URL. All that it made is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="pe-") as directory:
        home = Path(directory)
        runtimes = {"runsc": {"path": program, "runtimeArgs": list(options)}}
        (home / "daemon.json").write_text(json.dumps({"runtimes": runtimes}))
        # a network of its own: an engine without a bridge removes docker0, which is the host engine's
        command = ["unshare", "--net", "dockerd", "--config-file", f"{home}/daemon.json", "--data-root", f"{home}/data"]
        command += ["--exec-root", f"{home}/exec", "--pidfile", f"{home}/pid", "-H", f"unix://{home}/s"]
        command += ["--bridge=none", "--iptables=false"]
        with (home / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            try:
                _await(home / "s", process, home / "log")
                for image in images:
                    _copy(image, f"unix://{home}/s")
                yield f"unix://{home}/s"
            finally:
                _remove_containers(f"unix://{home}/s")
                process.send_signal(signal.SIGTERM)
                process.wait(30)
        _unmount(home)


def _await(path: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        with socket.socket(socket.AF_UNIX) as link:
            try:
                link.connect(str(path))
                return
            except OSError:
                time.sleep(0.05)


def _copy(image: str, url: str) -> None:
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        subprocess.run(["docker", "-H", url, "load"], stdin=saving.stdout, check=True, capture_output=True, timeout=100)


def _remove_containers(url: str) -> None:
    listed = subprocess.run(["docker", "-H", url, "ps", "-aq"], capture_output=True, text=True, timeout=30, check=False)
    if names := listed.stdout.split():
        subprocess.run(["docker", "-H", url, "rm", "-f", *names], capture_output=True, timeout=60, check=False)


def _unmount(home: Path) -> None:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    below = [line.split()[4] for line in lines if line.split()[4].startswith(f"{home}/")]
    for path in sorted(below, reverse=True):
        subprocess.run(["umount", "-l", path], check=True, timeout=20)
