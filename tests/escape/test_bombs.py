"""Bombs of every kind, together and one by one: each ends at its own bound, a neighbour works, the daemon answers."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.e2e.daemon import docker, events_of, one, until
from tests.escape import gvisor
from tests.escape.attacker import SOLO, Attacker, Outcome, python
from tests.escape.verdicts import attack, control, in_runtimes
from tests.escape.weakened import Options, run_inside, started, unlimited
from tests.integration.docker.rig import Rig

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]  # the first one starts an engine with gVisor

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


@pytest.fixture(scope="module", autouse=True)
def frozen(attacker: Attacker) -> Iterator["subprocess.Popen[str]"]:
    """A run whose runner is stopped from the host while a call is under way: begun first, because it takes its time."""
    name = attacker.name()
    attacker.daemon.script(name, {"calls": [python("s", "import time; time.sleep(1)", timeout=2000)]}, {"text": "x"})
    process = attacker.daemon.begin(attacker.daemon.definition(SOLO.replace("{name}", name)), name)
    assigned = one(until(process, "callTools"), "sandboxAssigned")
    rows = docker("top", assigned["containerId"], "-eo", "pid,args").splitlines()
    (runner,) = [int(row.split()[0]) for row in rows if "runner.sock" in row and "tini" not in row]
    os.kill(runner, signal.SIGSTOP)
    yield process
    if process.poll() is None:
        attacker.daemon.ctl("job", "cancel", assigned["jobId"])
    process.communicate(timeout=60)


@attack("all_bombs")
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


# --- one by one, a little past its bound ------------------------------------------------------------------------------
PAST = """
import json, os, resource, sys, time
def fork_bomb():
    made = []
    try:
        while len(made) < 300:
            pid = os.fork()
            if pid == 0: time.sleep(30); os._exit(0)
            made.append(pid)
    finally:
        for pid in made: os.kill(pid, 9)
        for pid in made: os.waitpid(pid, 0)
def disk_bomb():
    try:
        with open('/tmp/bytes', 'wb', 0) as file:
            for _ in range(70): file.write(bytes(1 << 20))
    finally: os.unlink('/tmp/bytes')
def inode_bomb():
    os.mkdir('/tmp/many')
    for number in range(17000): os.close(os.open(f'/tmp/many/{number}', os.O_CREAT | os.O_WRONLY))
def descriptor_bomb():
    opened = []
    try:
        while len(opened) < 1100: opened.append(os.open('/dev/null', 0))
    finally:
        for one in opened: os.close(one)
def log_bomb():
    with open('/run/log/more', 'wb', 0) as file:
        for _ in range(100): file.write(bytes(1 << 10))
def states():
    pids = [pid for pid in os.listdir('/proc') if pid.isdigit()]
    return [open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[0] for pid in pids]
def zombies():
    made = 0
    try:
        while made < 400:
            if os.fork() == 0: os._exit(0)
            made += 1
        end = time.monotonic() + 20
        while states().count('Z') < made:
            if time.monotonic() > end: raise OSError(f'{states().count("Z")} zombies')
            time.sleep(.05)
    finally:
        for _ in range(made): os.wait()
found = {}
for name in sys.argv[1:]:
    try: found[name] = [True, repr(globals()[name]())]
    except OSError as error: found[name] = [False, repr(error)]
print(json.dumps(found))
"""
MEMORY = "held = []\nfor _ in range(29): held.append(bytearray(b'x') * (32 << 20))\nprint('held')"
NAMES = ("disk_bomb", "inode_bomb", "descriptor_bomb", "log_bomb", "fork_bomb", "zombies")
IN_GVISOR = tuple(name for name in NAMES if name in gvisor.TRIED and name != "fork_bomb")  # which ends its sandbox
Answers = dict[str, tuple[bool, str]]


def without_bounds(options: Options) -> None:
    """The directories of the image belong to root."""
    unlimited(options)
    options["User"] = "0:0"


@pytest.fixture(scope="module")
def past(each_attacker: Attacker, runtime: str) -> Outcome:
    """Each with the time of a call; memory comes last, and then one that counts what is left."""
    names = NAMES if runtime == "runc" else IN_GVISOR
    turns = [[python(name, PAST, name, timeout=3900)] for name in names]
    outcome = each_attacker.run(*turns, [python("memory", MEMORY, timeout=3900)], [python("next", COUNT)])
    assert outcome.code == 0, outcome.stderr
    return outcome


COUNT = "import os; print(sum(name.isdigit() for name in os.listdir('/proc')))"


@pytest.fixture(scope="module")
def boundless(rig: Rig) -> Answers:
    with started(rig, without_bounds) as container:
        found: Answers = json.loads(run_inside(container, PAST, *NAMES))
        return {**found, "memory_bomb": (run_inside(container, MEMORY) == "held\n", "")}


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", [pytest.param(name, marks=attack(name)) for name in names])


def ends_at_its_bound(past: Outcome, name: str) -> None:
    went_past, told = json.loads(past.printed(name))[name]
    assert not went_past, told


@each(IN_GVISOR)
def test_a_bomb_ends_at_its_bound(past: Outcome, name: str) -> None:
    ends_at_its_bound(past, name)


@in_runtimes("runc")
@each(sorted(set(NAMES) - set(IN_GVISOR)))
def test_a_bomb_of_runc_alone_ends_at_its_bound(past: Outcome, name: str) -> None:
    ends_at_its_bound(past, name)


@attack("memory_bomb")
def test_a_memory_bomb_ends_at_its_bound_and_the_sandbox_goes_on(past: Outcome, runtime: str) -> None:
    answer = past.answers()["memory"]
    assert "held" not in answer["output"]
    # In gVisor no memory is given any more; with runc the kernel kills.
    assert (answer.get("signal") == "SIGKILL") if runtime == "runc" else (answer.get("exitCode") != 0), answer
    assert past.printed("next") == "3\n", "tini, the runner, and what counts"


@in_runtimes("runsc")
@attack("fork_bomb")
def test_a_fork_bomb_in_gvisor_ends_at_the_hosts_limit_and_with_it_its_own_sandbox(each_attacker: Attacker) -> None:
    outcome = each_attacker.run([python("bomb", PAST, "fork_bomb", timeout=3900)], [python("next", COUNT)])
    assert outcome.code == 0, outcome.stderr
    causes = [event["cause"] for event in outcome.events if event["type"] == "sandboxReleased"]
    # On a busy machine its time may be up before its room is.
    in_time = outcome.answers().get("bomb", {}).get("error") != "timeout"
    assert causes == (["exited", "finished"] if in_time else ["finished"])
    assert outcome.printed("next") == "3\n"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=control(name, "all_bombs")) for name in (*NAMES, "memory_bomb")]
)
def test_without_bounds_it_goes_past(boundless: Answers, name: str) -> None:
    went_past, told = boundless[name]
    assert went_past, told


# --- whether another notices ------------------------------------------------------------------------------------------
TAKE_ALL = """
import ctypes, fcntl, os, time
libc = ctypes.CDLL(None)
most = int(open('/proc/sys/fs/inotify/max_user_instances').read())
taken, end = 0, time.monotonic() + 2.5
while taken < most and time.monotonic() < end:
    read, write = os.pipe()
    if os.fork() == 0:
        own = 0
        while own < 900 and libc.inotify_init1(0) >= 0: own += 1
        os.write(write, own.to_bytes(4, 'big'))
        time.sleep(2.5)
        os._exit(0)
    own = int.from_bytes(os.read(read, 4), 'big')
    taken += own
    if own < 900: break
pipes = [os.pipe() for _ in range(100)]
try:
    for _, write in pipes: fcntl.fcntl(write, 1031, 1 << 20)  # F_SETPIPE_SZ: until less than that is left
except PermissionError: pipes += [os.pipe() for _ in range(20)]  # until no page is left
time.sleep(max(0, end - time.monotonic()))
print(taken)
"""
WANT_ONE = """
import ctypes, fcntl, os, time
libc = ctypes.CDLL(None)
end, got, failed, small = time.monotonic() + 2.5, 0, 0, 0
while time.monotonic() < end:
    pair = os.pipe()
    small += fcntl.fcntl(pair[1], 1032) < 65536  # F_GETPIPE_SZ
    for one in pair: os.close(one)
    made = libc.inotify_init1(0)
    if made >= 0: os.close(made); got += 1
    else: failed += 1
    time.sleep(.02)
print(got, failed, small)
"""


def at_once(*acts: Callable[[], str]) -> list[str]:
    with ThreadPoolExecutor(len(acts)) as threads:
        return [done.result(60) for done in [threads.submit(act) for act in acts]]


@attack("inotify_bomb", "pipe_bomb")
def test_one_that_takes_all_inotify_instances_and_pipe_pages_takes_only_its_own(attacker: Attacker) -> None:
    def run(source: str) -> str:
        return attacker.run([python("i", source, timeout=3900)]).printed("i")

    taken, other = at_once(partial(run, TAKE_ALL), partial(run, WANT_ONE))
    assert int(taken) > 0
    got, failed, small = map(int, other.split())
    assert (got > 0, failed, small) == (True, 0, 0)


@pytest.fixture(scope="module")
def of_one_uid(rig: Rig) -> list[int]:
    """What the other one of two containers of one uid got."""

    def one_uid(options: Options) -> None:
        options["User"] = "200999:200999"
        options["HostConfig"]["Tmpfs"] = {}

    with started(rig, one_uid) as first, started(rig, one_uid) as second:
        _, other = at_once(partial(run_inside, first, TAKE_ALL), partial(run_inside, second, WANT_ONE))
    return [int(number) for number in other.split()]


@control("inotify_bomb")
def test_two_of_one_uid_take_inotify_instances_from_each_other(of_one_uid: list[int]) -> None:
    assert of_one_uid[1] > 0


@control("pipe_bomb")
def test_two_of_one_uid_take_pipe_pages_from_each_other(of_one_uid: list[int]) -> None:
    assert of_one_uid[2] > 0


@attack("output_bomb")
def test_endless_output_becomes_a_short_result(attacker: Attacker) -> None:
    outcome = attacker.run([python("log", BOMBS["log"], timeout=1500)])
    assert len(json.dumps(outcome.events)) < 256 << 10


@control("output_bomb")
def test_short_output_is_there_in_full(attacker: Attacker) -> None:
    assert attacker.run([python("log", "print('y' * 20000)")]).printed("log").count("y") == 20000


def test_what_a_fork_bomb_left_is_ended_with_its_call(attacker: Attacker) -> None:
    bomb = python("bomb", BOMBS["fork"], timeout=1500)
    outcome = attacker.run([bomb], [python("next", "print('works')")])
    assert outcome.answers()["bomb"].get("error") == "timeout"
    assert outcome.answers()["next"].get("output") == "works\n", outcome.answers()


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


def test_a_runner_that_goes_silent_is_given_up_a_little_after_its_calls_time_out(
    frozen: "subprocess.Popen[str]",
) -> None:
    # The daemon waits for a skill's start (5 s), the call (4 s) and its margin (30 s).
    rest, stderr = frozen.communicate(timeout=60)
    events = events_of(rest)
    assert frozen.returncode == 0, stderr
    assert "did not go on in time" in json.dumps(one(events, "resumeToolCalls"))
    assert [event["cause"] for event in events if event["type"] == "sandboxReleased"] == ["misbehaved", "finished"]
