"""A real MCP server, written by others, at work in a sandbox."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, one, types

pytestmark = pytest.mark.docker

TOML = """
[experts.clock]
instruction = "Tell the time."
[experts.clock.skills.time]
type = "mcpStdioSkill"
command = "mcp-server-time"
args = ["--local-timezone", "UTC"]
pick = ["get_current_time"]
requiredEnv = ["TIME_TOKEN"]
rule = "Always name the time zone."
"""


@pytest.fixture(scope="module")
def clock(home: Path) -> Iterator[Daemon]:
    image = "perstack/test:latest"
    settings = {"templates.base.image": image, "templates.skills.image": image}
    daemon = Daemon(home, {**settings, "templates.base.min_idle": 1, "templates.skills.min_idle": 1})
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def test_a_skills_tool_answers_and_its_secret_reaches_no_other_process(clock: Daemon) -> None:
    secret = "only-for-the-server-4711"
    look = (
        "import glob\n"
        "for path in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: text = open(path, 'rb').read()\n"
        "    except OSError as error: text = str(error).encode()\n"
        "    print(path, b'TIME_TOKEN' in text)\n"
    )
    clock.script(
        "clock",
        {"calls": [{"id": "t", "name": "get_current_time", "arguments": {"timezone": "UTC"}}]},
        {
            "calls": [
                {"id": "e", "name": "exec", "arguments": {"command": "python3", "args": ["-c", look], "stdout": True}}
            ]
        },
        {"text": "It is noon UTC."},
    )
    code, events, stderr = clock.run(clock.definition(TOML), "clock", env={"TIME_TOKEN": secret})
    assert code == 0, stderr
    time, looked = (json.dumps(event) for event in events if event["type"] == "resolveToolResults")
    assert "UTC" in time
    assert "datetime" in time
    assert "True" not in looked
    assert "False" in looked or "Permission denied" in looked
    assert one(events, "skillConnected")["tools"]
    assert one(events, "secretReleased")["skill"] == "time"
    assert secret not in json.dumps(events)
    names = [tool["name"] for tool in one(events, "startRun")["tools"]]
    assert "get_current_time" in names
    assert "convert_time" not in names


def test_a_skill_that_cannot_start_ends_the_run_with_its_own_words(clock: Daemon) -> None:
    toml = TOML.replace('command = "mcp-server-time"', 'command = "no-such-server"').replace(
        'requiredEnv = ["TIME_TOKEN"]', ""
    )
    clock.script("clock", {"text": "never"})
    code, events, _ = clock.run(clock.definition(toml), "clock")
    assert code == 1
    assert one(events, "stopRunByError")["reason"] == "skill_failed"
    assert "no-such-server" in one(events, "stopRunByError")["message"]
    assert types(events)[-1] == "jobFinished"


def test_a_pick_of_a_tool_that_is_not_offered_is_told(clock: Daemon) -> None:
    toml = TOML.replace("get_current_time", "get_curent_time").replace('requiredEnv = ["TIME_TOKEN"]', "")
    clock.script("clock", {"text": "never"})
    code, events, _ = clock.run(clock.definition(toml), "clock")
    assert code == 1
    assert "get_current_time" in one(events, "stopRunByError")["message"]
