"""Limits of a job and of its experts: each stop names the limit, and a child's is an error result for its parent."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, one, types
from tests.e2e.skill_servers import call, expert, results

pytestmark = pytest.mark.docker

TEAM = expert("solo", delegates=["helper"]) + expert("helper")


@pytest.fixture(scope="module")
def daemon(home: Path) -> Iterator[Daemon]:
    prices = {"scripted/script": {"input": 1000, "output": 1000}}  # a scripted turn has 110 tokens: 0.11 dollars
    daemon = Daemon(home, {"models.prices": prices, "templates.base.min_idle": 2})
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def looks(count: int) -> list[dict[str, Any]]:
    """So many steps of two calls each."""
    paths = ("a", "b")
    turns = [{"calls": [call(f"{path}{n}", "listDirectory", path=".") for path in paths]} for n in range(count)]
    return [*turns, {"text": "done"}]


@pytest.mark.parametrize(
    ("option", "reason", "words", "turns"),
    [
        (("--max-steps", "3"), "max_steps_job", "3 steps", 3),
        (("--max-tokens", "300"), "budget_tokens", "300 tokens", 3),
        (("--max-cost", "0.30"), "budget_money", "0.3 US dollars", 3),
        (("--max-tool-calls", "5"), "budget_toolCalls", "5 tool calls", 3),
    ],
    ids=["steps", "tokens", "money", "tool calls"],
)
def test_a_job_that_reaches_a_limit_stops_and_says_which(
    daemon: Daemon, option: tuple[str, ...], reason: str, words: str, turns: int
) -> None:
    daemon.script("solo", *looks(9))
    code, events, _ = daemon.run(daemon.definition(expert("solo")), "solo", *option)
    last = events[-1]
    assert (code, last["outcome"], last["exitCode"], last["reason"]) == (3, "stopped", 3, reason)
    assert words in last["message"]
    assert types(events).count("startGeneration") == turns
    job = daemon.json("job", "get", last["jobId"])
    assert (job["state"], job["steps"], job["toolCalls"]) == ("stopped", turns, 2 * turns)


def test_a_job_whose_time_is_up_stops_in_the_middle_of_a_call(daemon: Daemon) -> None:
    daemon.script("solo", {"calls": [call("e", "exec", command="sleep", args=["60"])]}, {"text": "never"})
    code, events, _ = daemon.run(daemon.definition(expert("solo")), "solo", "--max-time", "2s")
    last = events[-1]
    assert (code, last["reason"]) == (3, "budget_wallClock")
    assert "2 s" in last["message"]
    assert 1900 < last["timestamp"] - events[0]["timestamp"] < 30_000  # the call would take 60 s
    assert one(events, "stopRunByExceededBudget")["budget"] == "wallClock"


# --- children ---------------------------------------------------------------------------------------------------------
def test_a_childs_own_step_limit_is_an_error_result_and_its_parent_goes_on(daemon: Daemon) -> None:
    daemon.script("solo", {"calls": [call("d", "helper", query="look")]}, {"text": "done without"})
    daemon.script("helper", *looks(9))
    toml = expert("solo", delegates=["helper"]) + expert("helper", maxSteps=2)
    code, events, _ = daemon.run(daemon.definition(toml), "solo")
    assert code == 0
    told = json.loads(results(events)["d"])
    assert told["error"] == "max_steps_run"
    assert "2 steps" in told["message"]
    assert events[-1]["answer"] == "done without"


@pytest.mark.parametrize(
    ("option", "error"),
    [
        (("--max-tokens", "400"), "budget_tokens"),
        (("--max-cost", "0.40"), "budget_money"),
        (("--max-tool-calls", "6"), "budget_toolCalls"),
        (("--max-steps", "4"), "max_steps_job"),
    ],
    ids=["tokens", "money", "tool calls", "steps"],
)
def test_a_limit_of_the_job_that_a_child_reaches_is_told_to_its_parent_and_stops_that_too(
    daemon: Daemon, option: tuple[str, ...], error: str
) -> None:
    daemon.script("solo", {"calls": [call("d", "helper", query="look")]}, {"text": "never"})
    daemon.script("helper", *looks(9))
    code, events, _ = daemon.run(daemon.definition(TEAM), "solo", *option)
    assert (code, events[-1]["reason"]) == (3, error)
    assert json.loads(results(events)["d"])["error"] == error
    stops = [event["expertKey"] for event in events if event["type"].startswith("stopRunByExceeded")]
    assert stops == ["helper", "solo"]


def test_time_that_is_up_ends_children_and_parent_at_once(daemon: Daemon) -> None:
    daemon.script("solo", {"calls": [call("d", "helper", query="wait")]}, {"text": "never"})
    daemon.script("helper", {"calls": [call("e", "exec", command="sleep", args=["60"])]}, {"text": "never"})
    code, events, _ = daemon.run(daemon.definition(TEAM), "solo", "--max-time", "2s")
    assert (code, events[-1]["reason"]) == (3, "budget_wallClock")
    ends = [event for event in events if event["type"] == "stopRunByExceededBudget"]
    assert {event["expertKey"] for event in ends} == {"solo", "helper"}
    assert ends[-1]["timestamp"] - ends[0]["timestamp"] < 5_000


# --- prices -----------------------------------------------------------------------------------------------------------
def test_a_limit_in_money_without_a_price_is_refused_before_anything_happens(daemon: Daemon) -> None:
    directory = daemon.definition(expert("solo"))
    done = daemon.ctl(
        "run", "solo", "do it", "--workspace", "ephemeral", "--max-cost", "1", "--model", "priceless", cwd=directory
    )
    assert done.returncode not in {0, 3}
    assert ("priceless" in done.stderr, "models.prices" in done.stderr) == (True, True)
    assert done.stdout == ""


def test_a_delegate_without_a_price_is_refused_as_well(daemon: Daemon) -> None:
    toml = expert("solo", delegates=["helper"]) + expert("helper", model="priceless")
    done = daemon.ctl(
        "run", "solo", "do it", "--workspace", "ephemeral", "--max-cost", "1", cwd=daemon.definition(toml)
    )
    assert done.returncode not in {0, 3}
    assert "priceless" in done.stderr
