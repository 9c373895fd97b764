"""A skill's server that means harm: it costs its own call or its own run, and the secret it got goes nowhere else."""

import base64
import hashlib
import json
import subprocess
import threading
from pathlib import Path

import pytest

from tests.e2e.daemon import docker, one, until
from tests.escape.attacker import Attacker, Outcome, python, tool

pytestmark = pytest.mark.docker

SOURCE = (Path(__file__).parent / "hostile_server.py").read_text()
SECRET = "a-value-that-nobody-else-has-5150"
CALLED = {
    "garbage": "said", "forged": "said", "asking": "said", "words": "said", "silent": "timeout",
    "huge": "skill_disconnected", "exit": "skill_disconnected",
}  # fmt: skip
REFUSED = {"line": "over 16 MiB", "never": "not ready after", "tools": "more than 1000 tools"}


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
    assert (answer if isinstance(answer, str) else answer["error"]) == CALLED[mode]


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


def test_a_secret_is_in_its_servers_environment_and_nowhere_else(attacker: Attacker) -> None:
    look = (
        "import glob, hashlib, os, sys\n"
        "secret = sys.argv[1][::-1].encode()\n"
        "places = [path for name in ('environ', 'cmdline', 'mem') for path in glob.glob(f'/proc/[0-9]*/{name}')]\n"
        "for top in ('/tmp', '/run', '/home', '/mnt', '/gw', '/etc', '/opt', '/dev/shm'):\n"
        "    places += [f'{d}/{name}' for d, _, names in os.walk(top) for name in names]\n"
        "tried = 0\n"
        "for place in places:\n"
        "    tried += 1\n"
        "    try:\n"
        "        with open(place, 'rb') as file: print(*[place] * (secret in file.read(4 << 20)))\n"
        "    except OSError: pass\n"
        "print('tried', tried > 20)\n"
    )
    outcome = attacker.run(
        [tool("call", "speak")],
        [python("look", look, SECRET[::-1])],
        toml=definition("secret", 'requiredEnv = ["HOSTILE_TOKEN"]\n'),
        env={"HOSTILE_TOKEN": SECRET},
    )
    assert outcome.code == 0, outcome.stderr
    # The control: the server itself did have it, and says so without saying it.
    assert outcome.answers()["call"] == hashlib.sha256(base64.b64encode(SECRET.encode())).hexdigest()
    assert outcome.printed("look").split() == ["tried", "True"]
    assert SECRET not in json.dumps(outcome.events)
    assert SECRET not in attacker.daemon.log()
    search = ["grep", "-rlaF", SECRET, str(attacker.daemon.home)]
    at_rest = subprocess.run(search, check=False, capture_output=True, text=True)
    assert at_rest.stdout == ""


def test_what_the_engine_can_tell_of_a_working_sandbox_has_no_secret(attacker: Attacker) -> None:
    name = attacker.name()
    attacker.daemon.script(name, {"calls": [python("s", "import time; time.sleep(1)")]}, {"text": "done"})
    toml = definition("secret", 'requiredEnv = ["HOSTILE_TOKEN"]\n').replace("{name}", name)
    directory = attacker.daemon.definition(toml)
    (directory / ".env").write_text(f"HOSTILE_TOKEN={SECRET}\n")
    process = attacker.daemon.begin(directory, name, "--env-path", ".env")
    try:
        container = one(until(process, "callTools"), "sandboxAssigned")["containerId"]
        told = docker("inspect", container) + docker("top", container, "-eo", "pid,args") + docker("diff", container)
    finally:
        process.communicate(timeout=60)
    assert "runner.sock" in told
    assert SECRET not in told
