"""A skill's server and the shell of its expert: apart in sandboxes of their own, and, where they share one by choice,
behind the second line. Each look is taken in the other arrangement as well, where it finds what it looks for.
"""

import json
import subprocess
from collections.abc import Container
from pathlib import Path
from typing import Any

import pytest

from tests.escape import gvisor
from tests.escape.attacker import Attacker, Call, Outcome, python, tool
from tests.escape.verdicts import attack, control, in_runtimes
from tests.escape.weakened import Options, run_inside, started
from tests.integration.docker.rig import Rig

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]  # the first one starts an engine with gVisor

SERVER = Path(__file__).with_name("hostile_server.py").read_text()
MARK, SLEEPER, ABSTRACT, LEFT = (
    "the-servers-argv-3141",
    "the-shells-argv-2718",
    "a-sibling-listens",
    "left-by-the-skill",
)
HOST = "localhost"
LISTEN = f"""
import builtins, socket
builtins.kept = socket.socket(socket.AF_UNIX)
builtins.kept.bind('\\0{ABSTRACT}')
builtins.kept.listen()
"""
LOOK = """
import json, os, socket, sys
mark, abstract, left = sys.argv[1][::-1].encode(), sys.argv[2], sys.argv[3]
def attempt(act):
    try: return [True, repr(act())[:80]]
    except OSError as error: return [False, repr(error)]
def argv(pid):
    try: return open(f'/proc/{pid}/cmdline', 'rb').read()
    except OSError: return b''
def key(pid):
    with open(f'/proc/{pid}/environ', 'rb') as file: return file.read().index(b'HOSTILE_TOKEN')
def memory(pid):
    with open(f'/proc/{pid}/maps') as maps: start = int(maps.read().partition('-')[0], 16)
    with open(f'/proc/{pid}/mem', 'rb') as file: file.seek(start); return file.read(4)
def dial():
    with socket.socket(socket.AF_UNIX) as client: client.connect('\\0' + abstract)
found = [int(pid) for pid in os.listdir('/proc') if pid.isdigit() and mark in argv(pid)]
seen = {'processes': [bool(found), repr(found)], 'abstract': attempt(dial)}
for pid in found[:1]:
    seen |= {'environ': attempt(lambda: key(pid)), 'memory': attempt(lambda: memory(pid)),
             'signal': attempt(lambda: os.kill(pid, 0))}
files = []
for top, directories, names in os.walk('/'):
    directories[:] = [name for name in directories if os.path.join(top, name) not in ('/proc', '/sys')]
    files += [top for name in names if name == left]
seen['files'] = [bool(files), repr(files)]
print(json.dumps(seen))
"""
LEAVE = f"""
import os
for place in ('/tmp', os.environ['HOME']): open(place + '/{LEFT}', 'w').close()
try: open('/mnt/workspace/by-the-skill', 'w').close(); print('written')
except OSError as error: print(error.strerror)
"""
CONNECT = f"""
import socket
with socket.create_connection(('127.0.0.1', 3128), 5) as proxy:
    proxy.sendall(b'CONNECT {HOST}:443 HTTP/1.0\\r\\n\\r\\n')
    proxy.settimeout(5)
    print(proxy.recv(4096).decode())
"""
FIND_SLEEPER = f"""
import glob, time
def argv(path):
    try: return open(path, 'rb').read()
    except OSError: return b''
end, found = time.monotonic() + 1.5, []
while time.monotonic() < end and not found:
    found = [path for path in glob.glob('/proc/[0-9]*/cmdline') if b'{SLEEPER[::-1]}'[::-1] in argv(path)]
    time.sleep(.02)
print(bool(found))
"""


def ask(call_id: str, source: str) -> Call:
    return tool(call_id, "speak", source=source)


def definition(isolation: str, workspace: str = "") -> str:
    return (
        '[experts.{name}]\ninstruction = "Work."\n[experts.{name}.skills.hostile]\ntype = "mcpStdioSkill"\n'
        f'command = "python3"\nargs = ["-c", {json.dumps(SERVER)}, "probe", "{MARK}"]\n'
        f'requiredEnv = ["HOSTILE_TOKEN"]\nallowedDomains = ["{HOST}"]\nisolation = "{isolation}"\n{workspace}'
    )


def looked(attacker: Attacker, toml: str) -> Outcome:
    outcome = attacker.run(
        [ask("listen", LISTEN), ask("leave", LEAVE), ask("connect", CONNECT)],
        [python("look", LOOK, MARK[::-1], ABSTRACT, LEFT), python("shell connect", CONNECT)],
        [python("sleep", "import time; time.sleep(2)", SLEEPER), ask("find", FIND_SLEEPER)],
        toml=toml,
        env={"HOSTILE_TOKEN": "only-for-the-server-1618"},
    )
    assert outcome.code == 0, outcome.stderr
    return outcome


@pytest.fixture(scope="module")
def own(each_attacker: Attacker) -> Outcome:
    return looked(each_attacker, definition("own"))


@pytest.fixture(scope="module")
def shared(each_attacker: Attacker) -> Outcome:
    return looked(each_attacker, definition("shared"))


@pytest.fixture(scope="module")
def without_landlock(rig: Rig) -> dict[str, Any]:
    """Two processes in a container of the same options, that no runner started."""

    def same(_: Options) -> None:
        """Nothing is changed: only the domains are missing."""

    serve = f"{LISTEN}\nimport sys, time\nprint('up', flush=True)\ntime.sleep(60)"
    with started(rig, same) as container:
        command = ["docker", "exec", "--env=HOSTILE_TOKEN=x", container.id, "python3", "-c", serve, MARK]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"up\n"
            found: dict[str, Any] = json.loads(run_inside(container, LOOK, MARK[::-1], ABSTRACT, LEFT))
            server.kill()
    return found


def seen(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(outcome.printed("look"))
    return found


SECOND_LINE = {
    "environ": "sibling_environ", "memory": "sibling_memory", "signal": "sibling_signal",
    "abstract": "sibling_abstract_socket",
}  # fmt: skip


def second_line(names: Container[str]) -> pytest.MarkDecorator:
    cases = [pytest.param(key, marks=attack(name)) for key, name in SECOND_LINE.items() if name in names]
    return pytest.mark.parametrize("what", cases)


@second_line(gvisor.TRIED)
def test_a_shell_that_shares_a_sandbox_with_a_server_cannot_look_into_it(shared: Outcome, what: str) -> None:
    succeeded, told = seen(shared)[what]
    assert not succeeded, told


@in_runtimes("runc")
@second_line(gvisor.OTHERWISE)
def test_a_shell_that_shares_a_sandbox_with_a_server_cannot_reach_into_it(shared: Outcome, what: str) -> None:
    succeeded, told = seen(shared)[what]
    assert not succeeded, told


@pytest.mark.parametrize("what", [pytest.param(key, marks=control(name)) for key, name in SECOND_LINE.items()])
def test_without_landlock_it_reaches_into_it(without_landlock: dict[str, Any], what: str) -> None:
    succeeded, told = without_landlock[what]
    assert succeeded, told


FIRST_LINE = {"processes": "skill_processes", "files": "skill_files"}


@pytest.mark.parametrize("what", [pytest.param(key, marks=attack(name)) for key, name in FIRST_LINE.items()])
def test_a_shell_sees_nothing_of_a_skill_that_has_its_own_sandbox(own: Outcome, what: str) -> None:
    succeeded, told = seen(own)[what]
    assert not succeeded, told


@pytest.mark.parametrize("what", [pytest.param(key, marks=control(name)) for key, name in FIRST_LINE.items()])
def test_a_shell_sees_a_skill_that_shares_its_sandbox(shared: Outcome, what: str) -> None:
    succeeded, told = seen(shared)[what]
    assert succeeded, told


@attack("expert_processes")
def test_such_a_skill_sees_nothing_of_the_expert(own: Outcome) -> None:
    assert own.answers()["find"].strip() == "False"


@control("expert_processes")
def test_a_skill_that_shares_the_sandbox_sees_its_processes(shared: Outcome) -> None:
    assert shared.answers()["find"].strip() == "True"


@attack("skill_hosts")
def test_a_shell_cannot_connect_where_such_a_skill_may(own: Outcome) -> None:
    assert "(host_not_allowed)" in own.printed("shell connect")


@control("skill_hosts")
def test_the_skill_itself_is_let_past_its_list(own: Outcome) -> None:
    assert "(address_not_global)" in own.answers()["connect"], "the name is allowed, and leads to the host itself"


@attack("skill_workspace")
def test_such_a_skill_cannot_write_into_the_workspace(own: Outcome) -> None:
    assert "Read-only" in own.answers()["leave"]


@control("skill_workspace")
def test_a_skill_that_asked_for_it_writes_into_the_workspace(each_attacker: Attacker) -> None:
    outcome = each_attacker.run(
        [ask("leave", LEAVE)],
        [python("find", "import os; print(os.listdir('.'))")],
        toml=definition("own", 'workspace = "rw"\n'),
        env={"HOSTILE_TOKEN": "only-for-the-server-1618"},
    )
    assert outcome.answers()["leave"].strip() == "written"
    assert "by-the-skill" in outcome.printed("find")
