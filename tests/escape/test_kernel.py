"""What a shell inside can get from the kernel, the host, the network and the runner: nothing. Its control: the same
probes all succeed in a container from the same options with the protections taken away.
"""

import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.escape import gvisor, inside
from tests.escape.attacker import Attacker, python
from tests.escape.verdicts import attack, control, in_runtimes
from tests.escape.weakened import Engine, Options, among_processes_of, run_inside, started, weaken
from tests.integration.docker.rig import Rig

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]  # the first one starts an engine with gVisor

SOURCE = Path(inside.__file__).read_text()
ABSTRACT = f"perstack-escape-probe-{os.getpid()}"  # two suites may run at once
NAMES = sorted(inside.PROBES)
OF_ANOTHER = "other_processes"
OF_EVERY_PROCESS = {"HOSTNAME", "HOME", "PATH", "LANG", "PWD", "NODE_USE_ENV_PROXY"}
Answers = dict[str, tuple[bool, str]]
Mark = Callable[..., pytest.MarkDecorator]


@pytest.fixture(scope="module")
def listeners() -> Iterator[tuple[str, str]]:
    """The host's own listeners that the probes try to reach: a TCP port on loopback, an abstract name."""
    with socket.socket(socket.AF_INET) as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        abstract.bind("\0" + ABSTRACT)
        tcp.listen()
        abstract.listen()
        yield str(tcp.getsockname()[1]), ABSTRACT


@pytest.fixture(scope="module")
def in_sandbox(each_attacker: Attacker, listeners: tuple[str, str]) -> Answers:
    outcome = each_attacker.run([python("p", SOURCE, *listeners)])
    return {name: tuple(answer) for name, answer in json.loads(outcome.printed("p")).items()}


@pytest.fixture(scope="module")
def in_control(rig: Rig, each_engine: Engine, listeners: tuple[str, str]) -> Answers:
    others = [name for name in NAMES if name != OF_ANOTHER]
    with started(rig, weaken, each_engine) as container, socket_of_another(rig):
        found: Answers = json.loads(run_inside(container, SOURCE, *listeners, *others))
        return found


@pytest.fixture(scope="module")
def among_others(rig: Rig, listeners: tuple[str, str]) -> Answers:
    with started(rig, weaken) as first, started(rig, among_processes_of(first.id)) as second:
        found: Answers = json.loads(run_inside(second, SOURCE, *listeners, OF_ANOTHER))
        return found


@contextmanager
def socket_of_another(rig: Rig) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(rig.root / "another.sock"))
        server.listen()
        try:
            yield
        finally:
            (rig.root / "another.sock").unlink()


def each(mark: Mark, probes: Iterable[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("probe", [pytest.param(name, marks=mark(name)) for name in sorted(probes)])


def refused(answers: Answers, probe: str) -> None:
    succeeded, seen = answers[probe]
    assert not succeeded, seen


def succeeds(answers: Answers, probe: str) -> None:
    succeeded, seen = answers[probe]
    assert succeeded, seen


@each(attack, inside.PROBES.keys() - gvisor.WITHIN)
def test_a_shell_in_a_sandbox_is_refused(probe: str, in_sandbox: Answers) -> None:
    refused(in_sandbox, probe)


@in_runtimes("runc")
@each(attack, gvisor.WITHIN)
def test_a_shell_in_a_sandbox_of_runc_is_refused_what_gvisor_permits(probe: str, in_sandbox: Answers) -> None:
    refused(in_sandbox, probe)


@each(control, inside.PROBES.keys() - gvisor.NOT_APPLICABLE)
def test_the_same_probe_succeeds_where_the_protections_are_gone(probe: str, in_control: Answers) -> None:
    succeeds(in_control, probe)


@in_runtimes("runc")
@each(control, inside.PROBES.keys() & (gvisor.LACKING.keys() | gvisor.WITHIN.keys()))
def test_what_only_runc_has_succeeds_there_where_the_protections_are_gone(probe: str, in_control: Answers) -> None:
    succeeds(in_control, probe)


@control(OF_ANOTHER)
def test_in_the_process_namespace_of_another_its_processes_are_seen(among_others: Answers) -> None:
    succeeds(among_others, OF_ANOTHER)


def test_a_container_of_the_rig_without_a_change_refuses_as_a_sandbox_does(
    rig: Rig, listeners: tuple[str, str]
) -> None:
    """So that what the control shows comes from what it takes away, and not from the rig."""

    def alone(options: Options) -> None:
        options["HostConfig"]["Binds"] = []

    own = {"runner_environ", "runner_memory", "runner_root", "runner_descriptors", "runner_signal"}  # it has no runner
    with started(rig, alone) as container:
        found = json.loads(run_inside(container, SOURCE, *listeners))
    assert {name for name, (succeeded, _) in found.items() if succeeded} <= own


# --- what is otherwise in gVisor --------------------------------------------------------------------------------------
@in_runtimes("runsc")
@pytest.mark.parametrize("probe", sorted(gvisor.LACKING))
def test_what_gvisor_lacks_is_refused_even_where_the_protections_are_gone(probe: str, in_control: Answers) -> None:
    succeeded, seen = in_control[probe]
    assert not succeeded, f"it has it by now, and gvisor.LACKING says otherwise: {seen}"


WITHIN = """
import json, os
def attempt(act):
    try: return act()
    except OSError as error: return error.strerror
def of(pid, name):
    with open(f'/proc/{pid}/{name}', 'rb') as file: return file.read().decode()
ends = [pid for pid in os.listdir('/proc') if pid.isdigit() and of(pid, 'cmdline').endswith('/gw/runner.sock' + chr(0))]
def is_socket(pid, fd): return (attempt(lambda: os.readlink(f'/proc/{pid}/fd/{fd}')) or '').startswith('socket:')
def opened(path): return attempt(lambda: os.close(os.open(path, os.O_RDWR)))
(runner,) = [pid for pid in ends if pid != '1']
print(json.dumps({
    'environ': sorted(line.partition('=')[0] for line in of(runner, 'environ').split(chr(0)) if line),
    'sockets': [opened(f'/proc/{runner}/fd/{fd}') for fd in os.listdir(f'/proc/{runner}/fd') if is_socket(runner, fd)],
    'memory': attempt(lambda: of(runner, 'mem')),
}))
"""


@in_runtimes("runsc")
def test_what_gvisor_permits_leads_nowhere(each_attacker: Attacker) -> None:
    found = json.loads(each_attacker.run([python("within", WITHIN)]).printed("within"))
    assert set(found["environ"]) <= OF_EVERY_PROCESS
    assert found["memory"] == "Permission denied"
    assert set(found["sockets"]) == {"No such device or address"}, "it has some, and none can be opened"


NODES = """
import json, os
def answer(kind, number):
    path = f'/tmp/node-{number[0]}-{number[1]}-{kind}'
    os.mknod(path, kind | 0o666, os.makedev(*number))
    try: return os.close(os.open(path, os.O_RDWR))
    except OSError as error: return error.strerror
block, character = 0o60000, 0o20000
print(json.dumps([answer(block, (8, 0)), answer(block, (7, 0)), answer(character, (1, 1)), answer(character, (1, 11))]))
"""


@in_runtimes("runsc")
def test_where_gvisor_lets_nodes_be_made_they_lead_to_no_device_of_the_host(rig: Rig, each_engine: Engine) -> None:
    with started(rig, weaken, each_engine) as container:
        found = json.loads(run_inside(container, NODES))
    assert set(found) == {"No such device or address"}, "disks, memory, its log"
