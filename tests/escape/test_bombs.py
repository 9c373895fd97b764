"""Bombs of every kind, all at once: each ends with its own run, a neighbour works, and the daemon answers."""

import json
import os
import signal
import subprocess
import threading

import pytest

from tests.e2e.daemon import docker, events_of, one, until
from tests.escape.attacker import SOLO, Attacker, Outcome, python

pytestmark = pytest.mark.docker

BOMBS = {
    "fork": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "memory": "held = []\nwhile True: held.append(bytearray(32 << 20))",
    "disk": (
        "import os\n"
        "for place in ('/tmp/b', 'b', '/run/b', '/home/perstack/b', '/dev/shm/b'):\n"
        "    try:\n"
        "        with open(place, 'wb', 0) as file:\n"
        "            while True: file.write(bytes(1 << 20))\n"
        "    except OSError as error: print(place, error.errno)\n"
    ),
    "log": "import os\nwhile True: os.write(1, b'y' * 65536)",
    "descriptors": (
        "import os\nopened = []\n"
        "try:\n    while True: opened.append(os.open('/dev/null', 0))\n"
        "except OSError as error: print(len(opened), error.errno)\n"
    ),
    "egress": (
        "import socket, time\nend = time.monotonic() + 2.5\nsent = 0\n"
        "while time.monotonic() < end:\n"
        "    try:\n"
        "        with socket.socket(socket.AF_UNIX) as client:\n"
        "            client.settimeout(1); client.connect('/gw/egress.sock')\n"
        "            client.send(b'CONNECT flood.example:443 HTTP/1.0\\r\\n\\r\\n'); sent += 1\n"
        "    except OSError: pass\n"
        "print(sent)\n"
    ),
}  # fmt: skip
BOUND_SECONDS = 10  # of one `perstackctl system info`, its own start included, on a machine that is busy


def test_bombs_end_with_their_runs_and_neither_a_neighbour_nor_the_daemon_is_lost(attacker: Attacker) -> None:
    ended: dict[str, Outcome] = {}

    def blow(name: str, source: str) -> None:
        # Memory takes its time to fill up, and what forks takes all of it while it lasts.
        ended[name] = attacker.run([python("bomb", source, timeout=1500 if name == "fork" else 3900)])

    threads = [threading.Thread(target=blow, args=item) for item in BOMBS.items()]
    with attacker.watching_latency() as latency:
        for thread in threads:
            thread.start()
        neighbour = attacker.run([python("n", "print('works')")])
        for thread in threads:
            thread.join(90)
    assert neighbour.printed("n") == "works\n"
    assert set(ended) == set(BOMBS)
    assert {name: outcome.code for name, outcome in ended.items()} == dict.fromkeys(BOMBS, 0)
    assert max(latency.seconds) < BOUND_SECONDS
    answers = {name: outcome.answers()["bomb"] for name, outcome in ended.items()}
    # On a busy machine their time may be up before their room is.
    in_time = {name: answer for name, answer in answers.items() if answer.get("error") != "timeout"}
    if "memory" in in_time:
        assert in_time["memory"]["signal"] == "SIGKILL"
    if "descriptors" in in_time:
        assert in_time["descriptors"]["output"].split()[1] == "24"
    if "disk" in in_time:
        assert {line.split()[1] for line in in_time["disk"]["output"].splitlines()} == {"28"}
    assert len(json.dumps(answers["log"])) < 64 << 10


@pytest.mark.parametrize(("name", "number"), [("descriptors", "24"), ("disk", "28")])
def test_what_fills_up_is_told_so_by_its_own_limit(attacker: Attacker, name: str, number: str) -> None:
    lines = attacker.run([python("bomb", BOMBS[name], timeout=3900)]).printed("bomb").splitlines()
    assert {line.split()[1] for line in lines} == {number}


def test_a_memory_bomb_is_killed_by_its_own_limit(attacker: Attacker) -> None:
    outcome = attacker.run([python("bomb", BOMBS["memory"], timeout=3900)], [python("next", "print('works')")])
    assert outcome.answers()["bomb"].get("signal") == "SIGKILL", outcome.answers()
    assert outcome.printed("next") == "works\n"


def test_what_a_fork_bomb_left_is_ended_with_its_call(attacker: Attacker) -> None:
    bomb = python("bomb", BOMBS["fork"], timeout=1500)
    outcome = attacker.run([bomb], [python("next", "print('works')")])
    assert outcome.answers()["bomb"].get("error") == "timeout"
    assert outcome.answers()["next"].get("output") == "works\n", outcome.answers()


def frozen_runner(attacker: Attacker) -> tuple["subprocess.Popen[str]", str]:
    """A run whose runner is stopped from the host while a call is under way; the job's id."""
    name = attacker.name()
    attacker.daemon.script(name, {"calls": [python("s", "import time; time.sleep(1)", timeout=2000)]}, {"text": "x"})
    process = attacker.daemon.begin(attacker.daemon.definition(SOLO.replace("{name}", name)), name)
    events = until(process, "callTools")
    assigned = one(events, "sandboxAssigned")
    rows = docker("top", assigned["containerId"], "-eo", "pid,args").splitlines()
    (runner,) = [int(row.split()[0]) for row in rows if "runner.sock" in row and "tini" not in row]
    os.kill(runner, signal.SIGSTOP)
    return process, str(assigned["jobId"])


def test_a_runner_that_goes_silent_is_given_up_a_little_after_its_calls_time_out(attacker: Attacker) -> None:
    process, job_id = frozen_runner(attacker)
    try:
        # The daemon waits for a skill's start (5 s), the call (4 s) and its margin (30 s).
        rest, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        attacker.daemon.ctl("job", "cancel", job_id)
        process.communicate(timeout=60)
        pytest.fail("the run goes on without its runner")
    assert one(events_of(rest), "stopRunByError")["reason"] == "sandbox_silent"


def test_a_runner_that_is_killed_costs_its_run_the_sandbox_and_no_more(attacker: Attacker) -> None:
    name = attacker.name()
    attacker.daemon.script(name, {"calls": [python("s", "import time; time.sleep(9)")]}, {"text": "x"})
    process = attacker.daemon.begin(attacker.daemon.definition(SOLO.replace("{name}", name)), name)
    container = one(until(process, "callTools"), "sandboxAssigned")["containerId"]
    docker("kill", container)
    rest, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    events = events_of(rest)
    assert "ended during the run (exited" in json.dumps(one(events, "resumeToolCalls"))
    assert [event["cause"] for event in events if event["type"] == "sandboxReleased"] == ["exited", "finished"]
