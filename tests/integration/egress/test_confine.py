"""What a proxy that was taken over could do: processes that confine themselves as it does, and then misbehave.

Each probe has its control: the same process unconfined (root, as the tests are) does what is refused here.
"""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

NO_SUCH_CALL, ACCESS, NOT_PERMITTED, FAMILY = "refused 38", "refused 13", "refused 1", "refused 97"


def attempt(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.integration.egress.confined", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=30, check=False, cwd=Path(__file__).parents[3]
    )
    assert not done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else ""


@pytest.mark.parametrize(
    ("what", "outcome", "control"),
    [
        ("read /etc/passwd", ACCESS, "read True"),
        ("read python", ACCESS, "read True"),
        ("read /proc/self/environ", ACCESS, "read True"),
        ("list /etc", ACCESS, "True"),
        ("write /tmp", ACCESS, "written"),
        ("write /dev/shm", ACCESS, "written"),
        ("unix socket", FAMILY, "made"),
        ("raw socket", ACCESS, "made"),
        ("listen", NO_SUCH_CALL, "listening"),
        ("code in memory", ACCESS, "mapped"),
        ("signal", NO_SUCH_CALL, "reached"),
        ("setuid", NO_SUCH_CALL, "root"),
    ],
)
def test_what_a_proxy_does_not_do_is_refused(what: str, outcome: str, control: str) -> None:
    assert attempt(what) == (0, outcome)
    assert attempt("unconfined", what) == (0, control)


@pytest.mark.parametrize("what", ["exec", "fork", "ptrace", "unshare", "bpf"])
def test_what_only_an_intruder_does_ends_the_process(what: str) -> None:
    assert attempt(what) == (-signal.SIGSYS, "")
    assert attempt("unconfined", what)[0] == 0


def test_what_the_loops_library_tries_is_refused_and_not_fatal() -> None:
    assert attempt("io_uring") == (0, NO_SUCH_CALL)


@pytest.mark.parametrize(("what", "outcome"), [("read /etc/hosts", "read True"), ("pipe", "2")])
def test_what_it_needs_stays(what: str, outcome: str) -> None:
    assert attempt(what) == (0, outcome)


def test_names_are_resolved_on_threads_that_start_later() -> None:
    assert attempt("resolve")[1] in {"127.0.0.1", "::1"}


def test_connections_are_made() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert attempt("connect", str(server.getsockname()[1])) == (0, "connected")


def test_every_module_of_the_program_is_loaded_before_it_is_confined() -> None:
    """A module that is imported later cannot be read any more, and would fail when it is needed."""
    program = Path(__file__).parents[3] / "perstack_egress"
    late = {
        f"{path.name}: {line.strip()}"
        for path in program.glob("*.py")
        for line in path.read_text().splitlines()
        if re.match(r"\s+(import|from) \w", line)
    }
    assert late == {
        "__main__.py: import uvloop",
        "__main__.py: from perstack_egress.origin import trust",
        "connection.py: from perstack_egress.origin import Call, Exchange  "
        "# loaded at the start, where a route is configured",
    }
