"""The helper process: what it makes, what it may do, when it ends."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perstackd.adapters.workspaces import userns_helper
from perstackd.adapters.workspaces.userns import Owner, UserNamespaces
from perstackd.domain.errors import PerstackError

pytestmark = pytest.mark.docker
ALICE = Owner.of(1000, 1000)
SPARE = 199_999
ROOT = Path(__file__).parents[3]


@pytest.fixture
def namespaces() -> Iterator[UserNamespaces]:
    made = UserNamespaces(SPARE)
    made.start()
    yield made
    made.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def helper() -> int:
    """The pid of the one helper that this process started."""
    (pid,) = [
        child for child in children(os.getpid()) if b"userns_helper" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return pid


def gone(*pids: int) -> bool:
    """Whether all processes end within 10 s; pidfds, so that nobody else's process is ever looked at."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([descriptor], [], [], 10)[0]:
                return False
        finally:
            os.close(descriptor)
    return True


def maps_of(namespace: int) -> tuple[str, str]:
    """uid_map and gid_map as a process inside has them."""
    script = (
        "import ctypes, sys; ctypes.CDLL(None).setns(int(sys.argv[1]), 0)\n"
        "print(open('/proc/self/uid_map').read() + '|' + open('/proc/self/gid_map').read())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, str(namespace)],
        pass_fds=(namespace,),
        check=True,
        text=True,
        capture_output=True,
        timeout=20,
    )
    uids, gids = (" ".join(half.split()) for half in done.stdout.split("|"))
    return uids, gids


def test_a_namespace_has_the_owner_and_the_spare_id_and_nothing_else(namespaces: UserNamespaces) -> None:
    descriptor = namespaces.get(ALICE, 200_001)
    assert maps_of(descriptor) == ("1000 200001 1 199999 0 1", "1000 200001 1 199999 0 1")
    os.close(descriptor)


def test_a_privileged_group_is_shown_as_the_spare_one(namespaces: UserNamespaces) -> None:
    descriptor = namespaces.get(Owner.of(1000, 4), 200_001)
    assert maps_of(descriptor) == ("1000 200001 1 199999 0 1", "1000 200001 1 199999 0 1 4 199999 1")
    os.close(descriptor)


def test_the_same_pair_gets_the_same_namespace_and_another_pair_another(namespaces: UserNamespaces) -> None:
    pairs = [(ALICE, 200_001), (ALICE, 200_001), (ALICE, 200_002), (Owner.of(1001, 1001), 200_001)]
    descriptors = [namespaces.get(*pair) for pair in pairs]
    inodes = [os.fstat(descriptor).st_ino for descriptor in descriptors]
    assert inodes[0] == inodes[1]
    assert len(set(inodes)) == 3
    for descriptor in descriptors:
        assert not os.get_inheritable(descriptor)
        os.close(descriptor)


def test_the_cache_is_bounded(namespaces: UserNamespaces) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for number in range(600):
        os.close(namespaces.get(ALICE, 200_000 + number))
    assert len(os.listdir("/proc/self/fd")) - before == 512


@pytest.mark.parametrize(
    ("owner", "shown_as"), [(Owner(0, 0, 0), 200_001), (Owner(1000, 0, 0), 200_001), (ALICE, 0), (ALICE, SPARE)]
)
def test_privileged_ids_are_refused_even_when_asked_for(
    namespaces: UserNamespaces, owner: Owner, shown_as: int
) -> None:
    with pytest.raises(PerstackError) as refused:
        namespaces.get(owner, shown_as)
    assert refused.value.reason == "workspace_owner_refused"


def test_the_helper_keeps_only_the_capabilities_that_maps_need(namespaces: UserNamespaces) -> None:
    os.close(namespaces.get(ALICE, 200_001))
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{helper()}/status").read_text().splitlines() if ":\t" in line
    )
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {userns_helper._needed()}
    assert int(status["CapInh"], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_the_helper_has_no_file_of_the_daemon(namespaces: UserNamespaces) -> None:
    os.close(namespaces.get(ALICE, 200_001))
    opened = [os.readlink(entry) for entry in Path(f"/proc/{helper()}/fd").iterdir() if int(entry.name) > 2]
    assert opened
    assert all(name.startswith(("socket:", "pipe:", "user:", "/proc/")) for name in opened), opened


def test_closing_ends_the_helper_and_its_children(namespaces: UserNamespaces) -> None:
    os.close(namespaces.get(ALICE, 200_001))
    pid = helper()
    below = children(pid)
    namespaces.close()
    assert gone(pid, *below)
    namespaces.close()


def test_a_dead_helper_is_an_error_that_says_what_to_do(namespaces: UserNamespaces) -> None:
    os.close(namespaces.get(ALICE, 200_001))
    pid = helper()
    below = children(pid)
    os.kill(pid, signal.SIGKILL)
    assert gone(pid, *below)
    with pytest.raises(PerstackError) as error:
        namespaces.get(ALICE, 200_002)
    assert error.value.reason == "userns_unavailable"
    assert "restart perstackd" in error.value.message


def _killed(parent: "subprocess.Popen[str]") -> None:
    parent.kill()


def _left(parent: "subprocess.Popen[str]") -> None:
    assert parent.stdin is not None
    parent.stdin.close()


@pytest.mark.parametrize("end", [_killed, _left])
def test_the_helper_ends_with_its_daemon(end: "Callable[[subprocess.Popen[str]], None]") -> None:
    script = (
        "import os, sys\n"
        "from perstackd.adapters.workspaces.userns import Owner, UserNamespaces\n"
        "made = UserNamespaces(199999); made.start(); made.get(Owner.of(1000, 1000), 200001)\n"
        "print(made._helper.pid, flush=True); sys.stdin.read(); os._exit(0)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        below = children(pid)
        end(parent)
        assert gone(pid, *below)


def test_a_helper_that_was_not_started_is_an_error() -> None:
    with pytest.raises(PerstackError) as error:
        UserNamespaces(SPARE).get(ALICE, 200_001)
    assert error.value.reason == "userns_unavailable"
