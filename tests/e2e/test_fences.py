"""A sandbox that the run has given up comes to life again: nothing that it still tries is seen or takes effect.

The engine is the test's own and stands still meanwhile, so that nobody has removed the container.
"""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perstackd.adapters.docker.halting import HostHalts
from tests.e2e import daemon as ordinary
from tests.e2e.daemon import Daemon, one, running, types
from tests.e2e.skill_servers import call, expert, python, results, stdio, watched
from tests.e2e.test_trouble import eventually, processes
from tests.own_engine import OwnEngine, own_engine

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

STALE = """
import os, socket, sys, time
note = open("note", "a", buffering=1)
note.write("before\\n")
while not os.path.exists("go"):
    time.sleep(0.02)
note.write("resurrected\\n")
def reached(family, address):
    try:
        with socket.socket(family) as link:
            link.settimeout(5)
            link.connect(address)
            link.sendall(b"CONNECT stale.test:443 HTTP/1.1\\r\\nHost: stale.test:443\\r\\n\\r\\n")
            return link.recv(64).split(b"\\r\\n")[0].decode() or "closed"
    except OSError as error:
        return type(error).__name__
note.write("proxy: " + reached(socket.AF_UNIX, "/gw/egress.sock") + "\\n")
note.write("daemon: " + reached(socket.AF_UNIX, "/gw/runner.sock") + "\\n")
print("RESURRECTED")
"""
"""It holds a file of the workspace open, so that no unmount takes it away."""

IMPATIENT = {"jobs.tool_timeout_ms": 3000, "jobs.skill_start_timeout_ms": 1000, "jobs.answer_margin_ms": 2000}
"""A call may take 6 s, all in all: whoever is silent for longer is given up."""
LIVE = (
    STALE.replace("stale.test", "live.test")
    .replace("before", "live")
    .replace("resurrected", "going on")
    .replace("RESURRECTED", "LIVED")
)
COUNTER = """
import json, sys

count = 0
for line in sys.stdin:
    message = json.loads(line)
    match message.get("method"):
        case "initialize":
            version = message["params"]["protocolVersion"]
            info = {"name": "counter", "version": "1"}
            result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
        case "tools/list":
            result = {"tools": [{"name": "count", "inputSchema": {"type": "object"}}]}
        case "tools/call":
            count += 1
            result = {"content": [{"type": "text", "text": f"this is call {count}"}]}
        case _:
            continue
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


def serve_without_halts(*arguments: Any) -> None:
    """The control: a daemon that leaves what runs to the engine."""

    async def nothing(_self: HostHalts, _container_id: str) -> None:
        return

    setattr(HostHalts, "halt", nothing)  # noqa: B010  a method of a slotless class
    ordinary.serve(*arguments)


@pytest.fixture(scope="module")
def engine() -> Iterator[OwnEngine]:
    with own_engine() as engine:
        yield engine


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pf-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@dataclass
class Resurrection:
    """What was there when the job, and what the stale sandbox tried, was over."""

    events: list[dict[str, Any]]
    note: str
    lived: bool
    log: str


def resurrect(engine: OwnEngine, home: Path, main: Callable[..., None]) -> Resurrection:
    """A job whose first sandbox stands still in the middle of a call, is given up, and comes to life again while the
    run goes on in another and the engine is away.
    """
    daemon = Daemon(home, {**_settings(home), **IMPATIENT, "engine.url": engine.url}, main=main)
    files = _workspace(home)
    with running(daemon):
        wait = "import os, time\nwhile not os.path.exists('enough'): time.sleep(0.02)\n"
        daemon.script(
            "solo",
            {"calls": [python("stale", STALE)]},
            {"calls": [python("live", f"{LIVE}\n{wait}")]},
            {"text": "the run's own answer"},
        )
        eventually(lambda: len(_idle(daemon)) == 2)
        with watched(daemon, daemon.definition(expert("solo")), workspace=str(files)) as job, engine.frozen():
            job.until("callTools")
            first = one(job.seen, "sandboxAssigned")["containerId"]
            eventually(lambda: "before" in _text(files / "note"))
            pids = processes(first)
            assert len(pids) > 2
            _signal(pids, signal.SIGSTOP)
            job.until("resumeToolCalls")
            lived = _alive(pids)
            (files / "go").touch()
            _signal([pid for pid in pids if "stale.test" in _text(Path(f"/proc/{pid}/cmdline"))], signal.SIGCONT)
            eventually(lambda: _text(files / "note").count("daemon: ") == (2 if lived else 1))
            _signal(pids, signal.SIGCONT)  # the runner last: it would end the program, whose time has passed
            (files / "enough").touch()
            job.end()
        eventually(lambda: first not in engine.docker("ps", "-aq", "--no-trunc").split(), 60)
    return Resurrection(job.seen, _text(files / "note"), lived, daemon.log())


def test_what_runs_in_a_sandbox_that_was_given_up_has_ended_before_the_run_goes_on(
    engine: OwnEngine, home: Path
) -> None:
    seen = resurrect(engine, home, ordinary.serve)
    assert not seen.lived
    assert seen.note.split("\n")[:3] == ["before", "live", "going on"]
    assert "resurrected" not in seen.note
    its_own(seen)


def test_one_that_comes_to_life_again_is_heard_nowhere_even_where_nobody_could_end_it(
    engine: OwnEngine, home: Path
) -> None:
    """With the halt taken away: its process writes where it had a file open, which is what the halt is for; its word
    and its way out are refused all the same.
    """
    seen = resurrect(engine, home, serve_without_halts)
    assert seen.lived
    assert "resurrected" in seen.note
    answers = sorted(line.partition(" is not")[0] for line in seen.note.splitlines())
    told = [line for line in answers if line.startswith(("proxy", "daemon"))]
    assert told[:2] == ["daemon: FileNotFoundError"] * 2
    assert told[2:] == ["proxy: FileNotFoundError", "proxy: HTTP/1.1 403 live.test"]
    its_own(seen)


def its_own(seen: Resurrection) -> None:
    """The answer, the results and the connections of the job are those of the sandbox that it went on in."""
    events = seen.events
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert one(events, "jobFinished")["answer"] == "the run's own answer"
    first, second = [event for event in events if event["type"] == "sandboxAssigned"]
    assert (first["fence"], second["fence"]) == (1, 2)
    assert "did not go on in time" in results(events)["stale"]
    assert "LIVED" in results(events)["live"]
    assert "RESURRECTED" not in str([event for event in events if event["type"] != "callTools"])
    denied = [event["host"] for event in events if event["type"] == "egressDenied"]
    assert set(denied) == {"live.test"}
    assert types(events).count("initializeRuntime") == 2


def test_a_skills_server_counts_on_over_a_kill_of_the_daemon(home: Path) -> None:
    toml = expert("solo") + stdio("solo", "counter", COUNTER, isolation="shared")
    toml += stdio("solo", "other", COUNTER.replace('"count"', '"tally"'), isolation="own")
    settings = {"templates.base.min_idle": 1, "templates.skills.min_idle": 1}
    daemon = Daemon(home, settings)
    files = _workspace(home)
    daemon.settings.update(_settings(home))
    with running(daemon):
        wait = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)\nprint('went')"
        daemon.script(
            "solo",
            {"calls": [call("c1", "count"), call("t1", "tally")]},
            {"calls": [python("wait", wait), call("c2", "count"), call("t2", "tally")]},
            {"calls": [call("c3", "count"), call("t3", "tally")]},
            {"text": "counted"},
        )
        with watched(daemon, daemon.definition(toml), workspace=str(files)) as job:
            job.until("callTools", 2)
            daemon.stop(signal.SIGKILL)
            daemon.start()
            (files / "go").touch()
            job.end()
    said = results(job.seen)
    assert [said[f"c{number}"] for number in (1, 2, 3)] == [f"this is call {number}" for number in (1, 2, 3)]
    assert [said[f"t{number}"] for number in (1, 2, 3)] == [f"this is call {number}" for number in (1, 2, 3)]
    assert types(job.seen).count("sandboxAssigned") == 2
    connected = [event for event in job.seen if event["type"] == "skillConnected"]
    assert len(connected) == 2


# --- what the tests stand on ------------------------------------------------------------------------------------------
def _settings(home: Path) -> dict[str, Any]:
    return {
        "workspace_roots": [str(home / "files")],
        "engine.call_deadline_s": 2,
    }


def _workspace(home: Path) -> Path:
    files = home / "files"
    files.mkdir()
    os.chown(files, 1000, 1000)
    return files


def _idle(daemon: Daemon) -> list[Mapping[str, Any]]:
    return [row for row in daemon.json("sandbox", "ls") if row["state"] == "idle"]


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _alive(pids: list[int]) -> bool:
    """Whether any is more than a zombie."""
    states = [_text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] for pid in pids]
    return any(state and state[0] not in "ZX" for state in states)
