"""Where a secret could be, looked through after a server and a shell said it in every way they have. The control is a
word that is no secret, which was said beside it, or the same look at something that was given the secret there.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import docker, until
from tests.escape.attacker import SOLO, Attacker, Call, Outcome, python, tool
from tests.escape.hostile_runner import WORD
from tests.escape.verdicts import attack, control
from tests.escape.weakened import MACHINES, Engine, Options, run_inside, started, unlimited
from tests.integration.docker.rig import Rig

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]  # the first one starts an engine with gVisor

SERVER = Path(__file__).with_name("hostile_server.py").read_text()
SECRET = "a-value-that-nobody-else-has-5150"
BIN = Path(sys.executable).parent
SAY = f"""
import os, sys
value = os.environ["HOSTILE_TOKEN"]
said = value + " {WORD}\\n"
sys.stderr.write(said)
sys.stderr.flush()
print(said * int(sys.argv[-1] if sys.argv[-1].isdigit() else 1))
"""
FAIL = f'import os; raise OSError(os.environ["HOSTILE_TOKEN"] + " {WORD}")'
DIE = f"""
import os, sys
sys.stderr.write(os.environ["HOSTILE_TOKEN"] + " {WORD}\\n")
sys.stderr.flush()
sys.exit(3)
"""
LOOK = """
import glob, os
secret = "REVERSED"[::-1].encode()
places = [path for name in ('environ', 'cmdline', 'mem') for path in glob.glob(f'/proc/[0-9]*/{name}')]
for top in ('/tmp', '/run', '/home', '/mnt', '/gw', '/etc', '/opt', '/dev/shm'):
    places += [f'{d}/{name}' for d, _, names in os.walk(top) for name in names]
tried = 0
for place in places:
    tried += 1
    try:
        with open(place, 'rb') as file: print(*[place] * (secret in file.read(4 << 20)))
    except OSError: pass
print('tried', tried > 20)
""".replace("REVERSED", SECRET[::-1])
DUMP = """
import os, resource, subprocess, sys
os.chdir('/tmp')
def unbounded():
    try: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
    except (OSError, ValueError): os.write(1, b'refused\\n')
    os.abort()
try: print(subprocess.run(['true'], preexec_fn=unbounded, stdout=subprocess.PIPE).stdout.decode())
except subprocess.SubprocessError: pass
for name in os.listdir('.'):
    if name.startswith('core'): print(name, os.environ['HOSTILE_TOKEN'].encode() in open(name, 'rb').read())
"""
NEEDS = '[experts.{name}.skills."@perstack/base"]\nrequiredEnv = ["HOSTILE_TOKEN"]\n'


def definition(*argv: str, base: str = "") -> str:
    return (
        f'[experts.{{name}}]\ninstruction = "Work."\n{base}[experts.{{name}}.skills.hostile]\ntype = "mcpStdioSkill"\n'
        f'command = "python3"\nargs = {json.dumps(["-c", *argv])}\nrequiredEnv = ["HOSTILE_TOKEN"]\n'
    )


PROBE = definition(SERVER, "probe")
ENV = {"HOSTILE_TOKEN": SECRET}


def ask(call_id: str, source: str) -> Call:
    return tool(call_id, "speak", source=source)


@dataclass(frozen=True, slots=True)
class Said:
    """A job whose shell and server said it, and all that is kept of it."""

    outcome: Outcome
    rest: bytes
    export: bytes
    backup: bytes
    log: str


@pytest.fixture(scope="module")
def said(attacker: Attacker) -> Said:
    daemon = attacker.daemon
    calls = [ask("say", SAY), ask("fail", FAIL), python("shell", SAY, "1"), python("much", SAY, "3000")]
    outcome = attacker.run(calls, toml=definition(SERVER, "probe", base=NEEDS), env=ENV)
    assert outcome.code == 0, outcome.stderr
    export, backup = daemon.home / "job.jsonl", daemon.home / "backup.tar"
    done = daemon.ctl("job", "export", outcome.events[0]["jobId"], "--file", str(export))
    assert done.returncode == 0, done.stderr
    state = f"--set=state_directory={daemon.home}/state"
    command = [str(BIN / "perstackd"), "backup", state, str(backup)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    state_files = [path for path in (daemon.home / "state").rglob("*") if path.is_file()]
    # named workspaces are the tenants', and their images are many GiB of holes
    rest = b"".join(path.read_bytes() for path in state_files if "workspaces" not in path.parts)
    return Said(outcome, rest, export.read_bytes(), backup.read_bytes(), daemon.log())


@pytest.fixture(scope="module")
def failed(attacker: Attacker) -> Outcome:
    """A run that ends by a server that says it and dies."""
    return attacker.run(toml=definition(DIE), env=ENV)


# --- inside -----------------------------------------------------------------------------------------------------------
@attack("secret_in_processes")
def test_a_shell_finds_it_in_no_process_and_no_file(each_attacker: Attacker) -> None:
    outcome = each_attacker.run([python("look", LOOK)], toml=PROBE, env=ENV)
    assert outcome.printed("look").split() == ["tried", "True"]


@attack("secret_in_processes")
def test_a_shell_beside_the_server_finds_it_neither(attacker: Attacker) -> None:
    outcome = attacker.run([python("look", LOOK)], toml=PROBE + 'isolation = "shared"\n', env=ENV)
    assert outcome.printed("look").split() == ["tried", "True"]


@control("secret_in_processes")
def test_the_server_itself_finds_it_in_its_environment(each_attacker: Attacker) -> None:
    outcome = each_attacker.run([ask("look", LOOK)], toml=PROBE, env=ENV)
    assert "/environ" in outcome.answers()["look"]


@attack("secret_in_core")
def test_a_server_that_dies_leaves_no_core_with_it(each_attacker: Attacker) -> None:
    outcome = each_attacker.run([ask("dump", DUMP)], toml=PROBE, env=ENV)
    assert outcome.answers()["dump"].split() == ["refused"]


@control("secret_in_core")
def test_without_the_limit_the_core_has_it(rig: Rig) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    with started(rig, unlimited) as container:
        lines = run_inside(container, f"import os; os.environ['HOSTILE_TOKEN'] = {SECRET!r}\n{DUMP}").split()
    # Where the host pipes cores to a program of its own there is no file; that the limit was raised still shows.
    assert "refused" not in lines
    assert "True" in lines or pattern.startswith(("|", "/"))


# --- what the engine tells --------------------------------------------------------------------------------------------
def told(engine: Engine, container: str) -> str:
    processes = ("top", container, *(["-eo", "pid,args"] if engine.runtime == "runc" else []))
    return "".join(engine.docker(*command) for command in (("inspect", container), processes, ("diff", container)))


def image_told(engine: Engine, image: str) -> str:
    return engine.docker("inspect", image) + engine.docker("history", "--no-trunc", image)


@pytest.fixture(scope="module")
def engine(each_attacker: Attacker, each_engine: Engine) -> list[Any]:
    """What the engine told of the sandboxes of a run while a call was under way."""
    name = each_attacker.name()
    wait = ask("wait", "import time; time.sleep(50)")
    each_attacker.daemon.script(name, {"calls": [wait]}, {"text": "done"})
    directory = each_attacker.daemon.definition(PROBE.replace("{name}", name) + "toolTimeout = 60000\n")
    (directory / ".env").write_text(f"HOSTILE_TOKEN={SECRET}\n")
    process = each_attacker.daemon.begin(directory, name, "--env-path", ".env")
    try:
        assigned = [event for event in until(process, "callTools") if event["type"] == "sandboxAssigned"]
        found = [(told(each_engine, event["containerId"]), event["containerId"]) for event in assigned]
        images = [json.loads(each_engine.docker("inspect", container))[0]["Image"] for _, container in found]
        each_attacker.daemon.ctl("job", "cancel", assigned[0]["jobId"])
    finally:
        process.communicate(timeout=60)
    return [[text for text, _ in found], [image_told(each_engine, image) for image in images]]


@attack("secret_in_inspect")
def test_the_engine_tells_it_of_no_sandbox(engine: list[Any]) -> None:
    assert len(engine[0]) == 2, "the expert's and the skill's"
    for text in engine[0]:
        assert "runner.sock" in text or "perstack" in text
        assert SECRET not in text


@control("secret_in_inspect")
def test_the_engine_tells_what_a_container_was_given_as_environment(rig: Rig, each_engine: Engine) -> None:
    def given(options: Options) -> None:
        options["Env"].append(f"HOSTILE_TOKEN={SECRET}")

    with started(rig, given, each_engine) as container:
        assert SECRET in told(each_engine, container.id)


@attack("secret_in_labels")
def test_it_is_in_no_label_and_no_image(engine: list[Any]) -> None:
    for text in engine[1]:
        assert "/opt/perstack" in text
        assert SECRET not in text


@control("secret_in_labels")
def test_an_image_that_was_built_with_it_tells_it(rig: Rig) -> None:
    tag = f"perstack-escape-labelled:{rig.root.name}"
    docker_build = ["docker", "build", "--quiet", "--tag", tag, "-"]
    dockerfile = f"FROM perstack/base:latest\nLABEL token={SECRET}\n".encode()
    subprocess.run(docker_build, input=dockerfile, check=True, capture_output=True, timeout=60)
    try:
        assert SECRET in image_told(MACHINES, tag)
    finally:
        docker("rmi", tag)


# --- what is kept -----------------------------------------------------------------------------------------------------
@attack("secret_in_events")
def test_it_is_in_no_event(said: Said) -> None:
    assert SECRET not in json.dumps(said.outcome.events)


@control("secret_in_events")
def test_a_word_is_in_the_events_of_each_way_to_say_it(said: Said) -> None:
    answers = said.outcome.answers()
    assert all(WORD in json.dumps(answers[name]) for name in ("say", "fail", "shell", "much")), answers
    assert any(WORD in event["text"] for event in said.outcome.events if event["type"] == "skillStderr")


@attack("secret_in_errors")
def test_it_is_in_no_error_text(failed: Outcome) -> None:
    assert failed.code == 1
    assert SECRET not in failed.stderr + json.dumps(failed.events)


@control("secret_in_errors")
def test_a_word_is_in_the_error_text(failed: Outcome) -> None:
    assert WORD in failed.stderr + json.dumps(failed.events)


@attack("secret_in_log")
def test_it_is_not_in_the_daemons_log(said: Said, failed: Outcome, attacker: Attacker) -> None:
    assert (said.outcome.code, failed.code) == (0, 1)
    assert SECRET not in attacker.daemon.log()


@attack("secret_in_log", "secret_in_errors")
def test_it_is_not_in_what_is_told_of_a_runner_that_gives_up_with_it(hostile: Attacker) -> None:
    outcome = hostile.run([tool("a", "exec", command="true")], toml=SOLO + NEEDS, env=ENV, mode="fails")
    assert outcome.reason() == "runner_failed"
    assert SECRET not in outcome.stderr + json.dumps(outcome.events) + hostile.daemon.log()


@control("secret_in_log")
def test_a_word_is_in_the_log_of_what_is_told_there(hostile: Attacker) -> None:
    hostile.run([tool("a", "exec", command="true")], toml=SOLO + NEEDS, env=ENV, mode="fails")
    assert WORD in hostile.daemon.log()


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param("rest", marks=attack("secret_at_rest")),
        pytest.param("export", marks=attack("secret_in_exports")),
        pytest.param("backup", marks=attack("secret_in_backups")),
    ],
)
def test_it_is_in_nothing_that_is_kept(said: Said, kept: str) -> None:
    assert SECRET.encode() not in getattr(said, kept)


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param("rest", marks=control("secret_at_rest")),
        pytest.param("export", marks=control("secret_in_exports")),
        pytest.param("backup", marks=control("secret_in_backups")),
    ],
)
def test_a_word_is_in_what_is_kept(said: Said, kept: str) -> None:
    assert WORD.encode() in getattr(said, kept)
