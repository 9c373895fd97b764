"""While a daemon is away, and when the next one makes the sockets again: nobody inside can be the runner without the
session's token. The control is a daemon that has forgotten who its runners are.
"""

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, docker, events_of, one, serve, until
from tests.e2e.test_adoption import DIAL, eventually, inside, rows, said
from tests.escape import lawless
from tests.escape.attacker import SOLO, Attacker, Outcome, python
from tests.escape.verdicts import attack, control

pytestmark = pytest.mark.docker

STRANGER = DIAL.replace("TOKEN", "0" * 32)
TAKEN, NOT_TAKEN = '"came back"', "token refused"  # in the daemon's log
REFUSED = "rejected this is not the session's token"


@contextmanager
def daemon_of(main: Any) -> Iterator[Attacker]:
    with tempfile.TemporaryDirectory(prefix="pe-", dir="/tmp") as directory:
        daemon = Daemon(Path(directory), {"templates.base.min_idle": 1}, main=main)
        daemon.start()
        try:
            yield Attacker(daemon, Path(directory))
        finally:
            daemon.stop()


@contextmanager
def restarting(daemon: Daemon) -> Iterator[None]:
    """It starts beside the block: the socket is there before the daemon serves."""
    starting = threading.Thread(target=daemon.start)
    starting.start()
    try:
        yield
    finally:
        starting.join(90)


def dialled_while_idle(daemon: Daemon) -> str:
    """What the daemon that comes next says to a stranger in an idle sandbox, whose runner cannot come first."""
    idle = eventually(lambda: rows(daemon, "idle"))
    container, row = next(iter(idle.items()))
    daemon.stop(signal.SIGKILL)
    with stopped(runner_of(container)):
        stranger = inside(container, row["uid"], STRANGER)
        with restarting(daemon):
            return said(stranger)


def dialled_in_a_run(attacker: Attacker) -> tuple[str, Outcome]:
    """The same by a program that the run itself has started: what the daemon logged of it while the runner stood still,
    and the run from then on.
    """
    daemon, name = attacker.daemon, attacker.name()
    daemon.script(name, {"calls": [python("stranger", STRANGER)]}, {"text": "went on"})
    process = daemon.begin(daemon.definition(SOLO.replace("{name}", name)), name)
    try:
        container = one(until(process, "callTools"), "sandboxAssigned")["containerId"]
        eventually(lambda: "session_token" in docker("top", container, "-eo", "pid,args"))
        with ExitStack() as starting, stopped(runner_of(container)):
            daemon.stop(signal.SIGKILL)
            before = len(daemon.log())
            starting.enter_context(restarting(daemon))
            eventually(lambda: any(word in daemon.log()[before:] for word in (NOT_TAKEN, TAKEN)))
            logged = daemon.log()[before:]
    finally:
        rest, stderr = process.communicate(timeout=90)
    return logged, Outcome(process.returncode, events_of(rest), stderr)


def runner_of(container: str) -> list[int]:
    lines = docker("top", container, "-eo", "pid,args").splitlines()
    return [int(line.split()[0]) for line in lines if "lib /gw/runner.sock" in line and "tini" not in line]


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """They stand still, so that they cannot come back before who tries to be them; they may be gone at the end."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@attack("runner_place_after_restart")
def test_a_stranger_in_an_idle_sandbox_is_refused() -> None:
    with daemon_of(serve) as attacker:
        assert dialled_while_idle(attacker.daemon) == REFUSED


@control("runner_place_after_restart")
def test_a_daemon_that_forgot_its_runner_welcomes_the_stranger() -> None:
    with daemon_of(lawless.serve_hiding) as attacker:
        assert dialled_while_idle(attacker.daemon) == "welcome"


@attack("runner_place_in_a_run")
def test_a_stranger_in_a_sandbox_at_work_is_refused_and_its_run_goes_on() -> None:
    with daemon_of(serve) as attacker:
        logged, outcome = dialled_in_a_run(attacker)
    assert TAKEN not in logged
    assert outcome.printed("stranger").strip() == REFUSED
    assert one(outcome.events, "jobFinished")["answer"] == "went on"
    assert "sandboxAssigned" not in {event["type"] for event in outcome.events}, "it went on in the same sandbox"


@control("runner_place_in_a_run")
def test_a_daemon_that_forgot_its_runner_takes_the_stranger_for_it() -> None:
    with daemon_of(lawless.serve_hiding) as attacker:
        logged, _ = dialled_in_a_run(attacker)
    assert TAKEN in logged
