"""What a shell inside can get from the kernel, the host, the network and the runner: nothing. Its control: the same
probes all succeed in a container from the same options with the protections taken away.

Not applicable here, and not tried: loading modules, kexec and reboot (they would harm the host where they work),
AppArmor (this machine may have none), AF_VSOCK (only a virtual machine has a peer).
"""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.escape import inside
from tests.escape.attacker import Attacker, python
from tests.escape.weakened import run_inside, weakened_container

pytestmark = pytest.mark.docker

SOURCE = Path(inside.__file__).read_text()
ABSTRACT = "perstack-escape-probe"
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
def in_control(listeners: tuple[str, str]) -> Answers:
    with weakened_container() as container:
        return run_inside(container, SOURCE, *listeners)


@pytest.mark.parametrize("probe", sorted(inside.PROBES))
def test_a_shell_in_a_sandbox_is_refused(probe: str, in_sandbox: Answers) -> None:
    succeeded, seen = in_sandbox[probe]
    assert not succeeded, seen


@pytest.mark.parametrize("probe", sorted(inside.PROBES))
def test_the_same_probe_succeeds_where_the_protections_are_gone(probe: str, in_control: Answers) -> None:
    succeeded, seen = in_control[probe]
    assert succeeded, seen


def test_the_runners_socket_is_gone_and_nothing_can_take_its_place(attacker: Attacker) -> None:
    source = (
        "import os, socket\n"
        "print(sorted(os.listdir('/gw')))\n"
        "egress, runner = '/gw/egress.sock', '/gw/runner.sock'\n"
        "for act in (lambda: socket.socket(socket.AF_UNIX).bind(runner), lambda: os.unlink(egress),\n"
        "            lambda: os.rename(egress, runner), lambda: os.chmod(egress, 0)):\n"
        "    try: print('done', act())\n"
        "    except OSError as error: print(error.strerror)\n"
    )
    lines = attacker.run([python("p", source)]).printed("p").splitlines()
    assert lines == ["['egress.sock']", *["Read-only file system"] * 4]


def test_the_sandbox_shows_no_other_sandboxes_processes_or_workspaces(attacker: Attacker) -> None:
    source = (
        "import os; print(len([p for p in os.listdir('/proc') if p.isdigit()]), os.listdir('/mnt'), os.listdir('.'))"
    )
    assert attacker.run([python("p", source)]).printed("p") == "3 ['workspace'] []\n"
