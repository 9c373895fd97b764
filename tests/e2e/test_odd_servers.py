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

from perstackd.domain.tool_names import Origin, name_tools
from tests.e2e.daemon import Daemon, one
from tests.e2e.skill_servers import RAW, call, expert, results, stdio

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]

START_MS = 10_000
REFUSED = {
    ("own", "twice"): "lists these tools more than once: echo",
    ("shared", "empty-name"): "lists a tool without a name",
    ("own", "long-name"): "a tool's name is 257 characters",
    ("shared", "many-tools"): "more than 1000 tools",
    ("own", "large-schema"): "pick fewer tools",
    ("own", "no-handshake"): "not ready after",
    ("shared", "no-handshake"): "not ready after",
    ("shared", "die-at-once"): "no licence key",
    ("own", "long-line"): "a line of its output is over 16 MiB",
}
"""Servers that cannot be used: the run stops before the model is asked."""
UNKNOWN = "may or may not have taken effect"
FAILING = {
    ("own", "crash-on-call"): ("skill_disconnected", UNKNOWN),
    ("shared", "crash-on-call"): ("skill_disconnected", UNKNOWN),
    ("own", "hang-on-call"): ("timeout", "no answer in 3 s"),
    ("shared", "hang-on-call"): ("timeout", "no answer in 3 s"),
    ("own", "large-answer"): ("tool_error", "its answer is 100 MiB, the bound is 16 MiB"),
    ("shared", "stderr-flood"): ("timeout", "no answer in 3 s"),
    ("own", "news-flood"): ("timeout", "no answer in 3 s"),
    ("shared", "garbage"): ("skill_disconnected", UNKNOWN),
}
"""Servers whose call is an error result: the run goes on."""
LOOKS_WRONG = (("own", "completion"), ("shared", "cyclic-schema"))
CALLED = {"cyclic-schema": "cyclic", "hang-on-call": "slow"}
(RENAMED,) = (
    named.shown
    for named in name_tools(("attemptCompletion",), (), (("raw", "attemptCompletion"),))
    if named.origin is Origin.SKILL
)

Case = tuple[str, str]


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
def ended(daemon: Daemon) -> Mapping[Case, Ended]:
    """Every job; four at a time."""
    done: dict[Case, Ended] = {}
    room = threading.Semaphore(4)

    def run(case: Case) -> None:
        isolation, mode = case
        name = f"{mode}-{isolation}"
        shown = RENAMED if mode == "completion" else CALLED.get(mode, "echo")
        beside = [call("h", "healthCheck")] if case in FAILING else []
        daemon.script(name, {"calls": [call("c", shown, said="this"), *beside]}, {"text": "done"})
        timeout = 3_000 if case in FAILING and FAILING[case][0] == "timeout" else 40_000
        toml = expert(name) + stdio(name, "raw", RAW, mode, isolation=isolation, toolTimeout=timeout)
        with room:
            done[case] = Ended(*daemon.run(daemon.definition(toml), name))

    threads = [threading.Thread(target=run, args=(case,)) for case in (*REFUSED, *FAILING, *LOOKS_WRONG)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


@pytest.mark.parametrize("case", REFUSED, ids="-".join)
def test_a_server_that_cannot_be_used_stops_the_run_with_one_sentence(ended: Mapping[Case, Ended], case: Case) -> None:
    job = ended[case]
    assert job.code == 1, job.stderr
    stop = one(job.events, "stopRunByError")
    assert stop["reason"] == "skill_failed"
    assert "'raw' could not be started" in stop["message"]
    assert REFUSED[case] in stop["message"]
    assert not [event for event in job.events if event["type"] == "startRun"]


@pytest.mark.parametrize("case", FAILING, ids="-".join)
def test_a_call_that_fails_is_one_error_result_and_the_run_goes_on(ended: Mapping[Case, Ended], case: Case) -> None:
    job = ended[case]
    assert (job.code, job.events[-1].get("answer")) == (0, "done"), job.stderr
    said = results(job.events)
    error, words = FAILING[case]
    told = json.loads(said["c"])
    assert (told["error"], words in told["message"]) == (error, True), told
    assert json.loads(said["h"])["status"] == "ok"
    assert len(json.dumps(job.events)) < 1 << 20


def test_a_tool_with_the_name_of_a_base_tool_yields_and_completes_nothing(ended: Mapping[Case, Ended]) -> None:
    job = ended["own", "completion"]
    assert (job.code, job.events[-1]["answer"]) == (0, "done"), job.stderr
    routes = {route["name"]: route["owner"] for route in one(job.events, "startRun")["routes"]}
    assert (routes["attemptCompletion"], routes[RENAMED]) == ("daemon", "sandbox")
    (renamed,) = [event for event in job.events if event["type"] == "toolRenamed"]
    assert (renamed["tool"], renamed["skill"]) == ("attemptCompletion", "raw")
    assert '"said"' in results(job.events)["c"]
    assert not [event for event in job.events if event["type"] == "attemptCompletion"]


def test_a_schema_that_refers_to_itself_is_handed_on(ended: Mapping[Case, Ended]) -> None:
    job = ended["shared", "cyclic-schema"]
    assert (job.code, job.events[-1]["answer"]) == (0, "done"), job.stderr
    (tool,) = [tool for tool in one(job.events, "startRun")["tools"] if tool["name"] == "cyclic"]
    assert tool["inputSchema"]["properties"] == {"again": {"$ref": "#"}}
    assert '"said"' in results(job.events)["c"]
