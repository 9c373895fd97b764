"""Base tools against a workspace that is full of traps, and a workspace against the host."""

import os
import stat
from collections import Counter

import pytest

from tests.escape.attacker import Attacker, Outcome, python, tool

pytestmark = pytest.mark.docker

TRAPS = """
import os, socket
for name, target in {
    'passwd': '/etc/passwd', 'environ': '/proc/self/environ', 'upwards': '../../etc/passwd', 'zero': '/dev/zero',
    'gateway': '/gw/egress.sock', 'loop': 'loop', 'root': '/', 'magic': '/proc/self/root', 'fd': '/proc/self/fd/0',
}.items():
    os.symlink(target, name)
os.mkfifo('fifo')
socket.socket(socket.AF_UNIX).bind('socket')
open('sparse', 'w').truncate(200 << 20)
"""
OUTSIDE = {
    "passwd", "environ", "upwards", "zero", "gateway", "root/etc/passwd", "magic/etc/passwd", "fd", "/etc/passwd",
    "../x", "/proc/self/environ", "/gw/x",
}  # fmt: skip
SPECIAL = {"loop": "too_many_links", "fifo": "not_a_file", "socket": "not_a_file", "\0": "invalid_path"}


@pytest.fixture(scope="module")
def trapped(attacker: Attacker) -> Outcome:
    paths = sorted({*OUTSIDE, *SPECIAL, "sparse"})
    reads = [tool(f"read {path}", "readTextFile", path=path) for path in paths]
    writes = [tool(f"write {path}", "writeTextFile", path=path, text="evil") for path in paths if path != "sparse"]
    outcome = attacker.run([python("traps", TRAPS)], reads, writes)
    assert outcome.code == 0, outcome.stderr
    return outcome


@pytest.mark.parametrize("action", ["read", "write"])
@pytest.mark.parametrize("path", sorted(OUTSIDE))
def test_a_path_that_leaves_the_workspace_is_refused(trapped: Outcome, action: str, path: str) -> None:
    assert trapped.answers()[f"{action} {path}"]["error"] == "path_outside_workspace"


@pytest.mark.parametrize("action", ["read", "write"])
@pytest.mark.parametrize(("path", "error"), sorted(SPECIAL.items()))
def test_what_is_no_regular_file_is_refused_and_never_waited_for(
    trapped: Outcome, action: str, path: str, error: str
) -> None:
    assert trapped.answers()[f"{action} {path}"]["error"] == error


def test_a_huge_sparse_file_is_not_read_into_memory(trapped: Outcome) -> None:
    assert trapped.answers()["read sparse"]["error"] == "not_text"


def test_a_directory_that_becomes_a_link_and_back_never_leads_out(attacker: Attacker) -> None:
    swap = (
        "import ctypes, os, time\n"
        "os.mkdir('real'); open('real/passwd', 'w').write('INSIDE'); os.symlink('/etc', 'link')\n"
        "libc = ctypes.CDLL(None); end = time.monotonic() + 2.5; swaps = 0\n"
        "while time.monotonic() < end:\n"
        "    swaps += libc.syscall(316, -100, b'real', -100, b'link', 2) == 0\n"  # renameat2, RENAME_EXCHANGE
        "print(swaps)\n"
    )
    wait = "import os, time\nwhile not os.path.lexists('link'): time.sleep(.001)\n"
    reads = [tool(f"read {place}", "readTextFile", path="real/passwd") for place in range(150)]
    outcome = attacker.run([python("swap", swap), python("wait", wait), *reads])
    answers = outcome.answers()
    assert int(answers["swap"]["output"]) > 1000
    seen = Counter(
        str(answer.get("content") or answer["error"]) for name, answer in answers.items() if name.startswith("read")
    )
    assert set(seen) <= {"INSIDE", "not_found", "path_outside_workspace", "not_a_directory", "too_many_links"}, seen


def test_no_setuid_file_device_or_foreign_owner_reaches_the_host_through_a_workspace(attacker: Attacker) -> None:
    make = (
        "import os, subprocess\n"
        "def attempt(act):\n"
        "    try: act(); print('done')\n"
        "    except (OSError, subprocess.CalledProcessError) as error: print('refused')\n"
        "open('plain', 'w').close()\n"
        "for mode in (0o4755, 0o2755): attempt(lambda: os.chmod('plain', mode))\n"
        "attempt(lambda: os.open('created', os.O_CREAT | os.O_WRONLY, 0o4755))\n"
        "attempt(lambda: os.mknod('null', 0o20666, os.makedev(1, 3)))\n"
        "attempt(lambda: os.chown('plain', 0, 0))\n"
        "attempt(lambda: subprocess.run(['cp', '-p', '/bin/sh', 'shell'], check=True))\n"
        "attempt(lambda: os.link('/etc/passwd', 'passwd'))\n"
        "attempt(lambda: os.setxattr('plain', 'security.capability', bytes(20)))\n"
    )
    outcome = attacker.run([python("make", make)], workspace=str(attacker.project))
    assert outcome.code == 0, outcome.stderr
    assert outcome.printed("make").split() == ["refused"] * 5 + ["done"] + ["refused"] * 2
    found = {path.name: path.lstat() for path in attacker.project.iterdir()}
    assert set(found) == {"plain", "shell"}
    assert [name for name, file in found.items() if file.st_mode & (stat.S_ISUID | stat.S_ISGID)] == []
    assert {file.st_uid for file in found.values()} == {os.stat(attacker.project).st_uid}


def test_another_jobs_workspace_is_nowhere(attacker: Attacker) -> None:
    write = python("w", "open('mine', 'w').write('tenant data 7281')")
    look = (
        "import os\n"
        "for top, _, names in os.walk('/'):\n"
        "    if top.startswith(('/proc', '/sys')): continue\n"
        "    for name in names:\n"
        "        if name == 'mine': print(top)\n"
    )
    assert attacker.run([write], workspace="first").code == 0
    assert attacker.run([python("look", look)], workspace="second").printed("look") == ""
    control = attacker.run([python("look", look)], workspace="first")
    assert control.printed("look") == "/mnt/workspace\n"
