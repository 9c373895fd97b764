"""Servers of skills that do what they should not, in real sandboxes: each is one clear error, the run goes on or stops
as it should, and nothing hangs. The jobs run beside each other: what one does must not be felt by another.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, one
from tests.e2e.skill_servers import RAW, call, expert, results, stdio

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

START_MS, TOOL_MS = 15_000, 4_000
REFUSED = {
    "twice": "lists these tools more than once: echo",
    "empty-name": "lists a tool without a name",
    "long-name": "a tool's name is 257 characters",
    "many-tools": "more than 1000 tools",
    "large-schema": "pick fewer tools",
    "no-handshake": "not ready after",
    "die-at-once": "no licence key",
    "long-line": "a line of its output is over 16 MiB",
}
"""Servers that cannot be used: the run stops before the model is asked."""
FAILING = {
    "crash-on-call": ("skill_disconnected", "may or may not have taken effect"),
    "hang-on-call": ("timeout", "no answer in 4 s"),
    "large-answer": ("tool_error", "its answer is 100 MiB, the bound is 16 MiB"),
    "stderr-flood": ("timeout", "no answer in 4 s"),
    "news-flood": ("timeout", "no answer in 4 s"),
    "garbage": ("skill_disconnected", "it does not speak the protocol"),
}
"""Servers whose call is an error result: the run goes on."""
LOOKS_WRONG = ("completion", "cyclic-schema")
ISOLATIONS = ("own", "shared")


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a job."""

    code: int
    events: list[dict[str, Any]]
    stderr: str


@pytest.fixture(scope="module")
def daemon(home: Path) -> Iterator[Daemon]:
    settings = {
        "jobs.skill_start_timeout_ms": START_MS,
        "jobs.tool_timeout_ms": TOOL_MS,
        "templates.base.min_idle": 3,
        "templates.skills.image": "perstack/base:latest",
        "templates.skills.min_idle": 3,
    }
    daemon = Daemon(home, settings)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture(scope="module")
def ended(daemon: Daemon) -> Mapping[tuple[str, str], Ended]:
    """Every job, by its server's mode and isolation; four at a time."""
    done: dict[tuple[str, str], Ended] = {}
    room = threading.Semaphore(4)

    def run(mode: str, isolation: str) -> None:
        name = f"{mode}-{isolation}"
        tool = {"completion": "attemptCompletion", "cyclic-schema": "cyclic", "hang-on-call": "slow"}.get(mode, "echo")
        beside = [call("h", "healthCheck")] if mode in FAILING else []
        shown = "attemptCompletion_4a8f1c" if mode == "completion" else tool
        daemon.script(name, {"calls": [call("c", shown), *beside]}, {"text": "done"})
        with room:
            toml = expert(name) + stdio(name, "raw", RAW, mode, isolation=isolation)
            done[mode, isolation] = Ended(*daemon.run(daemon.definition(toml), name))

    modes = [*REFUSED, *FAILING, *LOOKS_WRONG]
    threads = [threading.Thread(target=run, args=(mode, isolation)) for mode in modes for isolation in ISOLATIONS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("mode", REFUSED)
def test_a_server_that_cannot_be_used_stops_the_run_with_one_sentence(
    ended: Mapping[tuple[str, str], Ended], mode: str, isolation: str
) -> None:
    job = ended[mode, isolation]
    assert job.code == 1, job.stderr
    stop = one(job.events, "stopRunByError")
    assert stop["reason"] == "skill_failed"
    assert "'raw' could not be started" in stop["message"]
    assert REFUSED[mode] in stop["message"]
    assert not [event for event in job.events if event["type"] == "startRun"]


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("mode", FAILING)
def test_a_call_that_fails_is_one_error_result_and_the_run_goes_on(
    ended: Mapping[tuple[str, str], Ended], mode: str, isolation: str
) -> None:
    job = ended[mode, isolation]
    assert (job.code, job.events[-1].get("answer")) == (0, "done"), job.stderr
    said = results(job.events)
    error, words = FAILING[mode]
    told = json.loads(said["c"])
    assert (told["error"], words in told["message"]) == (error, True), told
    assert json.loads(said["h"])["status"] == "ok"
    assert len(json.dumps(job.events)) < 1 << 20


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_tool_with_the_name_of_a_base_tool_yields_and_completes_nothing(
    ended: Mapping[tuple[str, str], Ended], isolation: str
) -> None:
    job = ended["completion", isolation]
    names = [tool["name"] for tool in one(job.events, "startRun")["tools"]]
    assert names.count("attemptCompletion") == 1
    (renamed,) = [event for event in job.events if event["type"] == "toolRenamed"]
    assert (renamed["tool"], renamed["skill"]) == ("attemptCompletion", "raw")
    route = next(route for route in one(job.events, "startRun")["routes"] if route["name"] == "attemptCompletion")
    assert route["owner"] == "daemon"


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_schema_that_refers_to_itself_is_handed_on(ended: Mapping[tuple[str, str], Ended], isolation: str) -> None:
    job = ended["cyclic-schema", isolation]
    assert (job.code, job.events[-1]["answer"]) == (0, "done"), job.stderr
    assert "does" not in results(job.events)["c"]
