"""A skill's server that means harm: it costs its own call or its own run."""

import json
import threading
from pathlib import Path

import pytest

from tests.e2e.daemon import one
from tests.escape.attacker import Attacker, Outcome, tool

pytestmark = pytest.mark.docker

SOURCE = (Path(__file__).parent / "hostile_server.py").read_text()
CALLED = {
    "forged": {"said"}, "asking": {"said"}, "words": {"said"}, "silent": {"timeout"}, "huge": {"tool_error"},
    "flooding": {"said", "skill_disconnected"}, "exit": {"skill_disconnected"},
}  # fmt: skip
"""What a call of each may come to. Whether a flood of questions is too much is a matter of how fast it comes."""
REFUSED = {
    "line": "over 16 MiB", "never": "not ready after", "tools": "more than 1000 tools",
    "garbage": "lines in a row are no messages",
}  # fmt: skip


def definition(mode: str, extra: str = "") -> str:
    return (
        '[experts.{name}]\ninstruction = "Work."\n[experts.{name}.skills.hostile]\ntype = "mcpStdioSkill"\n'
        f'command = "python3"\nargs = ["-c", {json.dumps(SOURCE)}, "{mode}"]\n{extra}'
    )


@pytest.fixture(scope="module")
def runs(attacker: Attacker) -> dict[str, Outcome]:
    """Each kind of server called once, eight at a time."""
    found: dict[str, Outcome] = {}
    room = threading.Semaphore(8)

    def one_of(mode: str) -> None:
        with room:
            found[mode] = attacker.run([tool("call", "speak")], toml=definition(mode))

    threads = [threading.Thread(target=one_of, args=(mode,)) for mode in (*CALLED, *REFUSED)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    return found


@pytest.mark.parametrize("mode", sorted(CALLED))
def test_a_hostile_answer_costs_no_more_than_its_call(runs: dict[str, Outcome], mode: str) -> None:
    assert runs[mode].code == 0, runs[mode].stderr
    answer = runs[mode].answers()["call"]
    assert (answer if isinstance(answer, str) else answer["error"]) in CALLED[mode]


@pytest.mark.parametrize("mode", sorted(REFUSED))
def test_a_server_that_never_gets_ready_ends_the_run_with_the_reason(runs: dict[str, Outcome], mode: str) -> None:
    assert runs[mode].code == 1
    assert runs[mode].reason() == "skill_failed"
    assert REFUSED[mode] in runs[mode].stderr


def test_a_servers_tools_cannot_take_the_names_of_the_daemons_or_the_runners(runs: dict[str, Outcome]) -> None:
    start = one(runs["forged"].events, "startRun")
    owners = {route["name"]: (route["owner"], route.get("skill", "")) for route in start["routes"]}
    assert owners["attemptCompletion"] == ("daemon", "")
    assert owners["exec"] == owners["readTextFile"] == ("sandbox", "")
    assert sum(skill == "hostile" for _, skill in owners.values()) == len(hostile_server_tools())


def hostile_server_tools() -> list[str]:
    (line,) = [line for line in SOURCE.splitlines() if line.startswith("TOOLS = ")]
    return list(json.loads(line.removeprefix("TOOLS = ")))


def test_a_result_of_very_many_parts_costs_no_more_than_its_call(attacker: Attacker) -> None:
    assert attacker.run([tool("call", "speak")], toml=definition("parts")).code == 0


def test_a_tool_with_an_endless_name_is_the_skills_failure(attacker: Attacker) -> None:
    assert attacker.run([tool("call", "speak")], toml=definition("name")).reason() == "skill_failed"
