"""`make demo`: starts perstackd, runs the fitness-assistant example through perstackctl, shows what came of it.

With ANTHROPIC_API_KEY set the real model answers; without it a conversation that people wrote is played back, and
says so. Everything is made below one temporary directory, which is removed at the end.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from perstackd.adapters.workspaces.hostread import read_beneath
from perstackd.adapters.workspaces.places import managed_directory
from perstackd.domain.ids import DEFAULT_TENANT

EXAMPLE: Final = Path(__file__).parent / "fitness-assistant"
BIN: Final = Path(sys.executable).parent
QUERY: Final = "Start today's session"
WORKSPACE: Final = "fitness-demo"
START_SECONDS: Final = 60
STOP_SECONDS: Final = 45
IDLE: Final = 2
_SHOWN: Final = {
    "capabilities",
    "may_gain_privileges",
    "without_seccomp_filter",
    "other_uids",
    "root",
    "other_networks",
    "user",
}


def main() -> int:
    """Run the example; returns the exit code of `perstackctl run`."""
    real = bool(os.environ.get("ANTHROPIC_API_KEY"))
    with tempfile.TemporaryDirectory(prefix="perstackd-demo-", dir="/tmp") as directory:
        home = Path(directory)
        config = _configuration(home, real=real)
        _title("perstackd starts")
        began = time.monotonic()
        with _daemon(home, config) as environment:
            idle = _fill(environment)
            _say(f"serving after {time.monotonic() - began:.1f} s, with {idle} warm sandboxes")
            _title(f'perstackctl run fitness-assistant "{QUERY}"')
            _say(_who_answers(real=real))
            began = time.monotonic()
            code = _run(environment, real=real)
            took = time.monotonic() - began
            _show_workspace(home)
            _show_sandboxes(environment)
            _title("how long it took")
            _say(f"{took:.2f} s from the command to its end, two experts in two sandboxes")
        _say("perstackd stopped")
    return code


def _who_answers(*, real: bool) -> str:
    if real:
        return "ANTHROPIC_API_KEY is set: a real model answers"
    return "no ANTHROPIC_API_KEY: a script written by hand answers, not a model (provider replay, conversation.jsonl)"


def _configuration(home: Path, *, real: bool) -> Path:
    replay = (
        f'[models]\ndefault_provider = "replay"\n[models.replay]\nfile = "{EXAMPLE.resolve()}/conversation.jsonl"\n'
    )
    config = home / "perstackd.toml"
    config.write_text(
        f'version = 1\nstate_directory = "{home}/state"\nruntime_directory = "{home}/run"\n'
        # no size, so that it runs where there are no loop devices
        f"[workspaces]\nnamed_bytes = 0\n[templates.base]\nmin_idle = {IDLE}\nmax = 4\n{'' if real else replay}"
    )
    return config


@contextmanager
def _daemon(home: Path, config: Path) -> Iterator[dict[str, str]]:
    """A daemon of its own; its log is shown when it does not come up."""
    socket, log = home / "run/perstackd.sock", home / "daemon.log"
    environment = {**os.environ, "PERSTACK_ADDRESS": f"unix:{socket}"}
    with log.open("w") as errors:
        daemon = subprocess.Popen([BIN / "perstackd", "serve", "--config", config], stderr=errors)
    try:
        if not wait_for(socket, lambda: daemon.poll() is None):
            sys.exit(f"perstackd did not start; its log:\n{log.read_text()[-4000:]}")
        yield environment
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
            _say("perstackd had to be killed; its log:")
            _say(log.read_text()[-2000:])


def wait_for(socket: Path, alive: Callable[[], bool]) -> bool:
    """Wait until the daemon's socket is there; False when the daemon ended or takes too long. Says so while it
    takes long.
    """
    began = said = time.monotonic()
    while not socket.exists():
        now = time.monotonic()
        if not alive() or now - began > START_SECONDS:
            return False
        if now - said > 1:
            _say(f"starting the first sandboxes ({now - began:.0f} s)")
            said = now
        time.sleep(0.02)
    return True


def _fill(environment: dict[str, str]) -> int:
    """Wait for the second sandbox, so that the run finds what a daemon that is up for a second longer has."""
    deadline = time.monotonic() + START_SECONDS
    while (idle := _ctl(environment, "pool", "status")[0]["idle"]) < IDLE and time.monotonic() < deadline:
        time.sleep(0.05)
    return int(idle)


def _run(environment: dict[str, str], *, real: bool) -> int:
    provider = [] if real else ["--provider", "replay"]
    # The live view of a terminal would be over in an instant: the log keeps every event on the screen.
    output = ["--output", "text"]
    command = [
        str(BIN / "perstackctl"),
        "run",
        "fitness-assistant",
        QUERY,
        "--workspace",
        WORKSPACE,
        *provider,
        *output,
    ]
    return subprocess.run(command, cwd=EXAMPLE, env=environment, check=False).returncode


def _show_workspace(home: Path) -> None:
    _title("fitness-log.md, as the expert wrote it in its workspace")
    # A workspace holds what a sandbox wrote: never follow its links.
    root = managed_directory(f"{home}/state", DEFAULT_TENANT, WORKSPACE)
    sys.stdout.write(read_beneath(root, "fitness-log.md", 1 << 20).decode(errors="replace").rstrip() + "\n")


def _show_sandboxes(environment: dict[str, str]) -> None:
    _title("the sandboxes, and what the kernel says about them")
    (job,) = _ctl(environment, "job", "ls")
    for run in _ctl(environment, "job", "runs", job["id"]):
        for sandbox in run["sandboxIds"]:
            posture = _ctl(environment, "sandbox", "posture", sandbox)
            checks = posture["checks"]
            good = sum(check["ok"] for check in checks)
            _say(f"{run['expertKey']:<18} {sandbox}  posture: {good} of {len(checks)} checks as required")
            for check in checks:
                if check["name"] in _SHOWN or not check["ok"]:
                    _say(f"    {'ok ' if check['ok'] else 'BAD'} {check['name']:<24} {check['actual']}")


def _ctl(environment: dict[str, str], *arguments: str) -> Any:
    command = [str(BIN / "perstackctl"), *arguments, "-o", "json"]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=30)
    return json.loads(done.stdout)


def _title(text: str) -> None:
    width = min(shutil.get_terminal_size().columns, 100)
    sys.stdout.write(f"\n── {text} {'─' * max(0, width - len(text) - 4)}\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
