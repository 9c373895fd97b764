"""Ended jobs that are done again: with live tools in real sandboxes, and with a live model that nothing is run for."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon
from tests.e2e.skill_servers import ASKING, PROBE, call, expert, player, python, results, stdio, watched

pytestmark = pytest.mark.docker

FORM = {
    "method": "elicitation/create",
    "params": {
        "message": "Which?",
        "requestedSchema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    },
}

GROW = "import pathlib; p = pathlib.Path('grown'); p.open('a').write('#'); print(p.read_text())"
TOML = (
    expert("solo", delegates=["helper"])
    + player("solo")
    + expert("helper")
    + stdio("helper", "beside", PROBE, "probe", isolation="shared")
)
SOLO: tuple[dict[str, Any], ...] = (
    {"calls": [python("a", GROW), call("d", "helper", query="look"), call("e", "helper", query="look")]},
    {"calls": [call("q", "askMove", question="Where?")]},
    {"text": "done"},
)
HELPER: tuple[dict[str, Any], ...] = (
    {"calls": [call("p", "probe", code="print('probed')"), python("h", "print(6 * 7)")]},
    {"text": "seen"},
)


@pytest.fixture(scope="module")
def daemon(home: Path) -> Iterator[Daemon]:
    daemon = Daemon(home, {"templates.base.min_idle": 3})
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture(scope="module")
def recorded(daemon: Daemon) -> str:
    """A job with tools, two delegates and a question, in a workspace that it changed."""
    talk(daemon)
    with watched(daemon, daemon.definition(TOML), workspace="replayed") as job:
        job.until("callInteractiveTool")
        job.answer("there")
        assert job.end()["exitCode"] == 0
    assert results(job.seen)["a"].count("#") == 1
    return job.id


def talk(daemon: Daemon, *solo: dict[str, Any]) -> None:
    """What the model says from now on, in a live replay as well."""
    daemon.script("solo", *(solo or SOLO))
    daemon.script("helper", *HELPER)


def replay(daemon: Daemon, job: str, *options: str) -> tuple[int, dict[str, Any]]:
    done = daemon.ctl("job", "replay", job, *options, "-o", "json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def events_of(daemon: Daemon, job: str) -> list[dict[str, Any]]:
    done = daemon.ctl("job", "watch", job, "--no-follow", "-o", "json")
    return [json.loads(line) for line in done.stdout.splitlines()]


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def test_live_tools_run_in_sandboxes_and_nobody_else_is_asked(daemon: Daemon, recorded: str) -> None:
    talk(daemon, {"text": "the model must not be asked"})
    code, found = replay(daemon, recorded, "--live-tools", "--workspace", "ephemeral")
    assert (code, found["divergence"], found["runs"], found["mode"]) == (0, None, 3, "liveTools"), found
    again = events_of(daemon, found["jobId"])
    assert types(again).count("sandboxAssigned") == 3
    assert types(again).count("skillConnected") == 2
    assert again[-1]["answer"] == "done"
    job = daemon.json("job", "get", found["jobId"])
    assert (job["parentJobId"], job["replay"], job["query"]) == (recorded, "liveTools", "do it")


def test_live_tools_name_the_result_that_the_changed_workspace_gives(daemon: Daemon, recorded: str) -> None:
    talk(daemon, {"text": "the model must not be asked"})
    code, found = replay(daemon, recorded, "--live-tools")
    difference = found["divergence"]
    assert (code, difference["recorded"]["type"], difference["stepNumber"]) == (1, "callDelegate", 1)
    assert difference["field"] == "results[0].content[0].text"
    before, now = (results([difference[key]])["a"].count("#") for key in ("recorded", "made"))
    assert (before, now > before) == (1, True)
    assert types(events_of(daemon, found["jobId"]))[-1] == "jobFinished"
    told = daemon.ctl("job", "replay", recorded, "--live-tools")
    assert (told.returncode, f"event {difference['seq']} of {recorded}" in told.stdout) == (1, True), told.stderr


def test_a_live_model_gets_what_was_recorded_and_nothing_is_run(daemon: Daemon, recorded: str) -> None:
    talk(daemon)
    claimed = sum(pool["claimedTotal"] for pool in daemon.json("pool", "status"))
    code, found = replay(daemon, recorded, "--live-model")
    assert (code, found["divergence"], found["unrecordedCalls"], found["runs"]) == (0, None, [], 3), found
    again = events_of(daemon, found["jobId"])
    assert not {"sandboxAssigned", "skillStarting", "initializeRuntime"} & set(types(again))
    assert results(again)["a"].count("#") == 1
    assert results(again)["p"] == "probed\n"
    assert sum(pool["claimedTotal"] for pool in daemon.json("pool", "status")) == claimed


def test_a_live_model_that_asks_for_something_else_is_told_so_and_named(daemon: Daemon, recorded: str) -> None:
    talk(daemon, {"calls": [python("z", "print('never')"), call("n", "helper", query="else")]}, *SOLO[1:])
    code, found = replay(daemon, recorded, "--live-model")
    assert (code, found["divergence"]["field"]) == (1, "turn.parts[0].arguments.args[1]")
    assert found["divergence"]["recorded"]["type"] == "callTools"
    assert [call["tool"] for call in found["unrecordedCalls"]] == ["exec", "helper"]
    assert found["unrecordedCalls"][0]["arguments"]["args"] == ["-c", "print('never')"]
    again = events_of(daemon, found["jobId"])
    assert [result for result in results(again).values() if "not_recorded" in result]
    assert types(again).count("startRun") == 1
    assert again[-1]["outcome"] == "completed"
    told = daemon.ctl("job", "replay", recorded, "--live-model")
    assert "Not in the record: exec" in told.stdout
    assert "turn.parts[0].arguments.args[1]" in told.stdout


def test_forms_and_approvals_are_answered_as_they_were(daemon: Daemon) -> None:
    toml = expert("solo") + stdio("solo", "asks", ASKING, isolation="shared", approval=["ask"])
    daemon.script("solo", {"calls": [call("a", "ask", requests=[FORM])]}, {"text": "done"})
    with watched(daemon, daemon.definition(toml)) as job:
        job.until("approvalRequested")
        job.answer("--approve")
        job.until("elicitationRequested")
        job.answer("--json", '{"n": 7}')
        assert job.end()["exitCode"] == 0
    for mode in ("--live-tools", "--live-model"):
        code, found = replay(daemon, job.id, mode)
        assert (code, found["divergence"], found["unrecordedCalls"]) == (0, None, []), found
        again = events_of(daemon, found["jobId"])
        assert '{"n":7}' in results(again)["a"].replace(" ", "")
        assert types(again).count("approvalDecided") == 1
        assert types(again).count("elicitationRequested") == (mode == "--live-tools")


def test_a_replay_outlives_a_kill_of_the_daemon(daemon: Daemon, recorded: str) -> None:
    talk(daemon, *({**turn, "delay": 1} for turn in SOLO))
    begun = daemon.command("job", "replay", recorded, "--live-model", "-o", "json", "--reconnect", "60")
    with subprocess.Popen(begun, env=daemon.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"callTools" not in (line := process.stderr.readline()) and b"exec" not in line:
            assert line, "the replay ended before it called a tool"
        daemon.stop(signal.SIGKILL)
        daemon.start()
        said, told = process.communicate(timeout=90)
    found = json.loads(said)
    assert (process.returncode, found["divergence"], found["unrecordedCalls"]) == (0, None, []), told
