"""A daemon of its own for one measurement: started, waited for, and in the end gone with everything that it made.

Order at the end: SIGTERM, a bound, SIGKILL; then whatever its sandboxes, mounts and directories have left is removed.
A benchmark that is killed takes its daemon along (the parent's death is a SIGTERM for it).
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.barriers import BarrierFile, Barriers
from benchmarks.experts import PROVIDER
from benchmarks.failure import MeasurementError
from benchmarks.options import Options, progress
from perstackctl.client import Client
from perstackd.adapters.docker.hardening import LABEL_DAEMON
from perstackd.adapters.workspaces.root import RuntimeRoot
from perstackd.daemon import daemon_id

REPOSITORY: Final = Path(__file__).resolve().parents[1]
BIN: Final = Path(sys.executable).parent
ENGINE: Final = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
IMAGE: Final = "perstack/base:latest"
SKILLS_IMAGE: Final = "perstack/test:latest"
"""The base image with a real MCP server."""
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 90.0
_LOG_SHOWN: Final = 2000


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon that serves. `home` holds all that is its own; `prepared` is what was made of its state before."""

    pid: int
    home: Path
    min_idle: int
    barrier_file: BarrierFile
    prepared: object = None

    @property
    def state(self) -> Path:
        """Its state directory, on the disk that is measured."""
        return self.home / "state"

    @property
    def address(self) -> str:
        """Its admin socket, as clients name it."""
        return f"unix:{self.home}/run/perstackd.sock"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a perstackctl that is to find it."""
        return {**_environment(), "PERSTACK_ADDRESS": self.address}

    @property
    def id(self) -> str:
        """What its containers are labelled with."""
        return daemon_id(self.state)

    def client(self) -> Client:
        """A new client, to be entered."""
        return Client(self.address)

    def barriers(self) -> Barriers:
        """Durable barriers so far; a daemon with the real models counts none."""
        return self.barrier_file.read()


@contextmanager
def running_daemon(
    options: Options,
    *,
    min_idle: int,
    most: int,
    real_models: bool = False,
    skills: bool = False,
    before: Callable[[Path], object] | None = None,
    engine: str = ENGINE,
    mortal: bool = False,
) -> Iterator[Daemon]:
    """A daemon whose pool keeps `min_idle` sandboxes and has at most `most`; it serves, its pool may still fill. With
    `skills` it has a second such pool, for the sandboxes of skills. `before` is called with its state directory first.

    A `mortal` one may be dead in the end. `real_models` starts the product's program as it is, with the vendor's SDK
    loaded; else the scripted one.

    Raises:
        MeasurementError: it did not come up; its log's end is in the message.
    """
    home = Path(tempfile.mkdtemp(prefix="perstackd-bench-", dir=options.directory))
    try:
        daemon_file = BarrierFile(home / "barriers")
        prepared = before(home / "state") if before is not None else None
        templates = {"base": IMAGE, "skills": SKILLS_IMAGE} if skills else {"base": IMAGE}
        pools = "".join(_pool(name, image, min_idle, most) for name, image in templates.items())
        with _process(home, _configuration(home, engine, pools, real_models=real_models), real_models) as process:
            daemon = Daemon(process.pid, home, min_idle, daemon_file, prepared)
            _await_socket(daemon, process)
            try:
                yield daemon
                if process.poll() is not None and not mortal:
                    raise MeasurementError("the daemon ended during the measurement")
            except Exception:
                progress(f"the daemon's log ends with:\n{_log_end(home)}")
                raise
    finally:
        _sweep(home)


@contextmanager
def another_daemon(dead: Daemon, min_idle: int) -> Iterator[Daemon]:
    """Kill a mortal daemon without a warning, and start another on all that it left, whose pool is to keep so many;
    that one need not serve yet.
    """
    config = dead.home / "perstackd.toml"
    config.write_text(config.read_text().replace(f"min_idle = {dead.min_idle}\n", f"min_idle = {min_idle}\n"))
    os.kill(dead.pid, signal.SIGKILL)
    with _process(dead.home, config, real_models=False) as process:
        yield replace(dead, pid=process.pid, min_idle=min_idle)


def _pool(name: str, image: str, min_idle: int, most: int) -> str:
    return f'[templates.{name}]\nimage = "{image}"\nmin_idle = {min_idle}\nmax = {most}\n'


def _configuration(home: Path, engine: str, pools: str, *, real_models: bool) -> Path:
    models = "" if real_models else f'[models]\ndefault_provider = "{PROVIDER}"\n'
    path = home / "perstackd.toml"
    path.write_text(
        f'version = 1\nstate_directory = "{home}/state"\nruntime_directory = "{home}/run"\n'
        f'[engine]\nurl = "{engine}"\n{models}{pools}'
    )
    return path


def _environment() -> dict[str, str]:
    """The caller's, without what would change the daemon's configuration."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PERSTACK")}


@contextmanager
def _process(home: Path, config: Path, real_models: bool) -> Iterator[subprocess.Popen[bytes]]:  # noqa: FBT001 - private
    scripted = [sys.executable, "-m", "benchmarks.serve", str(config), str(home / "barriers")]
    program = [str(BIN / "perstackd"), "serve", "--config", str(config)] if real_models else scripted
    with (home / "daemon.log").open("ab") as log:
        command = ["setpriv", "--pdeathsig", "TERM", "--", *program]
        process = subprocess.Popen(
            command, stderr=log, cwd=REPOSITORY, env=_environment(), stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            progress(f"the daemon did not stop within {STOP_SECONDS:g} s and is killed; its log:\n{_log_end(home)}")
            process.kill()
            process.wait()


def _await_socket(daemon: Daemon, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not (daemon.home / "run/perstackd.sock").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise MeasurementError(f"the daemon did not come up; its log:\n{_log_end(daemon.home)}")
        time.sleep(0.02)


def _log_end(home: Path) -> str:
    return (home / "daemon.log").read_bytes()[-_LOG_SHOWN:].decode(errors="replace")


def _sweep(home: Path) -> None:
    """Remove what a daemon that was killed leaves behind; after a clean stop that is its directory alone."""
    label = f"label={LABEL_DAEMON}={daemon_id(home / 'state')}"
    found = subprocess.run(["docker", "ps", "-aq", "--filter", label], capture_output=True, text=True, check=False)
    if found.returncode:
        progress(f"the engine does not say what is left ({found.stderr.strip()[:200]}); see docker ps --filter {label}")
    if containers := found.stdout.split():
        progress(f"removing {len(containers)} containers that the daemon left")
        subprocess.run(["docker", "rm", "--force", "--volumes", *containers], check=False, stdout=subprocess.DEVNULL)
    RuntimeRoot(str(home / "run")).cleanup()
    shutil.rmtree(home)
