"""A real perstackd in a process of its own, and perstackctl beside it."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perstackd.config import load
from perstackd.daemon import run
from tests.fakes.scripts import FileScripts

BIN = Path(sys.executable).parent
START_SECONDS = 90
CALL_SECONDS = 240
"""A call of perstackctl that takes longer hangs. Jobs that are waited for wait for each other's sandboxes."""


def serve(home: str, settings: Mapping[str, Any], real_providers: bool, secrets: Mapping[str, str]) -> None:
    """The process's main function: everything real but the model, and that as well with `real_providers`."""
    os.setsid()
    os.environ.update(secrets)
    log = os.open(f"{home}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    run(
        load(None, dict(settings)),
        None if real_providers else {"scripted": lambda: FileScripts(Path(home) / "scripts")},
    )


@dataclass(slots=True)
class Daemon:
    """One daemon below `home`; `settings` are configuration keys with dots."""

    home: Path
    settings: dict[str, Any] = field(default_factory=dict)
    real_providers: bool = False
    secrets: dict[str, str] = field(default_factory=dict)
    process: Any = None
    main: Any = serve

    @property
    def socket(self) -> Path:
        return self.home / "run/perstackd.sock"

    def start(self) -> None:
        (self.home / "scripts").mkdir(exist_ok=True)
        base = {
            "state_directory": f"{self.home}/state",
            "runtime_directory": f"{self.home}/run",
            "models.default_provider": "scripted",
            "models.default_model": "script",
            "templates.base.min_idle": 2,
        }
        context = multiprocessing.get_context("spawn")
        arguments = (str(self.home), {**base, **self.settings}, self.real_providers, self.secrets)
        self.process = context.Process(target=self.main, args=arguments)
        self.process.start()
        try:
            self._started()
        except BaseException:
            self.stop()  # no fixture will: it has nothing to give
            raise

    def _started(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            assert self.process.is_alive(), self.log()[-3000:]
            assert time.monotonic() < deadline, self.log()[-3000:]
            time.sleep(0.05)

    def answers(self) -> bool:
        return self.socket.exists() and self.ctl("system", "info").returncode == 0

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process.is_alive():
            os.kill(self.process.pid, number)
        self.process.join(60)
        assert not self.process.is_alive(), "the daemon did not stop within 60 s"

    def log(self) -> str:
        path = self.home / "log"
        return path.read_text() if path.exists() else "(no log)"

    # --- what a user does -------------------------------------------------------------------------------------------
    def script(self, expert: str, *turns: Mapping[str, Any]) -> None:
        (self.home / "scripts" / f"{expert}.json").write_text(json.dumps({"turns": turns}))

    def definition(self, text: str) -> Path:
        directory = Path(tempfile.mkdtemp(prefix="definition-", dir=self.home))  # threads ask for one at the same time
        (directory / "perstack.toml").write_text(text)
        return directory

    def command(self, *arguments: str) -> list[str]:
        return [str(BIN / "perstackctl"), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PERSTACK_ADDRESS": f"unix:{self.socket}", "NO_COLOR": "1"}

    def ctl(
        self, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, stdin: bytes = b""
    ) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            self.command(*arguments),
            cwd=cwd or self.home,
            env={**self.environment, **(env or {})},
            input=stdin,
            capture_output=True,
            timeout=CALL_SECONDS,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def json(self, *arguments: str) -> Any:
        done = self.ctl(*arguments, "-o", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def run(
        self, cwd: Path, expert: str, *options: str, workspace: str = "ephemeral", env: Mapping[str, str] | None = None
    ) -> tuple[int, list[dict[str, Any]], str]:
        """`perstackctl run`: exit code, events, standard error."""
        done = self.ctl("run", expert, "do it", "--workspace", workspace, *options, cwd=cwd, env=env)
        return done.returncode, events_of(done.stdout), done.stderr

    def begin(self, cwd: Path, expert: str, *options: str) -> "subprocess.Popen[str]":
        command = self.command("run", expert, "do it", "--workspace", "ephemeral", *options)
        return subprocess.Popen(
            command, cwd=cwd, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def events_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def types(events: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(event["type"]) for event in events]


def one(events: Sequence[Mapping[str, Any]], event_type: str) -> Mapping[str, Any]:
    (event,) = [event for event in events if event["type"] == event_type]
    return event


def until(process: "subprocess.Popen[str]", event_type: str, count: int = 1) -> list[dict[str, Any]]:
    """Read the events of a running command until the count-th of a type."""
    seen: list[dict[str, Any]] = []
    assert process.stdout is not None
    for line in process.stdout:
        seen.append(json.loads(line))
        if types(seen).count(event_type) == count:
            return seen
    raise AssertionError(f"no {event_type}: {types(seen)} {process.stderr.read() if process.stderr else ''}")


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


@contextmanager
def running(daemon: Daemon) -> Iterator[Daemon]:
    """Whatever becomes of the test, it stops."""
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()
