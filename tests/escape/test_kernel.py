"""What a shell inside can get from the kernel, the host, the network and the runner: nothing. Its control: the same
probes all succeed in a container from the same options with the protections taken away.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.escape import inside
from tests.escape.attacker import Attacker, python
from tests.escape.verdicts import attack, control
from tests.escape.weakened import Options, among_processes_of, run_inside, started, weaken
from tests.integration.docker.rig import Rig

pytestmark = pytest.mark.docker

SOURCE = Path(inside.__file__).read_text()
ABSTRACT = "perstack-escape-probe"
NAMES = sorted(inside.PROBES)
OF_ANOTHER = "other_processes"
Answers = dict[str, tuple[bool, str]]


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
def in_sandbox(attacker: Attacker, listeners: tuple[str, str]) -> Answers:
    outcome = attacker.run([python("p", SOURCE, *listeners)])
    return {name: tuple(answer) for name, answer in json.loads(outcome.printed("p")).items()}


@pytest.fixture(scope="module")
def in_control(rig: Rig, listeners: tuple[str, str]) -> Answers:
    others = [name for name in NAMES if name != OF_ANOTHER]
    with started(rig, weaken) as first, started(rig, among_processes_of(first.id)) as second, socket_of_another(rig):
        found = json.loads(run_inside(first, SOURCE, *listeners, *others))
        return found | json.loads(run_inside(second, SOURCE, *listeners, OF_ANOTHER))  # type: ignore[no-any-return]


@contextmanager
def socket_of_another(rig: Rig) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(rig.root / "another.sock"))
        server.listen()
        yield


@pytest.mark.parametrize("probe", [pytest.param(name, marks=attack(name)) for name in NAMES])
def test_a_shell_in_a_sandbox_is_refused(probe: str, in_sandbox: Answers) -> None:
    succeeded, seen = in_sandbox[probe]
    assert not succeeded, seen


@pytest.mark.parametrize("probe", [pytest.param(name, marks=control(name)) for name in NAMES])
def test_the_same_probe_succeeds_where_the_protections_are_gone(probe: str, in_control: Answers) -> None:
    succeeded, seen = in_control[probe]
    assert succeeded, seen


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
