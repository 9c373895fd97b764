"""Base tools and host readers against a workspace that is full of traps or changes under them, and what of it comes
back to the host.
"""

import io
import os
import shutil
import stat
import tarfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perstackd.adapters.workspaces.hostread import read_beneath
from perstackd.adapters.workspaces.packing import packed
from perstackd.domain.errors import PerstackError
from tests.escape.attacker import Attacker, Outcome, python, tool
from tests.escape.verdicts import attack, control
from tests.escape.weakened import Options, run_inside, started, weaken
from tests.integration.docker.rig import Rig

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]  # the first one starts an engine with gVisor

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
def trapped(each_attacker: Attacker) -> Outcome:
    paths = sorted({*OUTSIDE, *SPECIAL, "sparse"})
    reads = [tool(f"read {path}", "readTextFile", path=path) for path in paths]
    writes = [tool(f"write {path}", "writeTextFile", path=path, text="evil") for path in paths if path != "sparse"]
    outcome = each_attacker.run([python("traps", TRAPS)], reads, writes)
    assert outcome.code == 0, outcome.stderr
    return outcome


@attack("magic_links")
@pytest.mark.parametrize("action", ["read", "write"])
@pytest.mark.parametrize("path", sorted(OUTSIDE))
def test_a_path_that_leaves_the_workspace_is_refused(trapped: Outcome, action: str, path: str) -> None:
    assert trapped.answers()[f"{action} {path}"]["error"] == "path_outside_workspace"


@attack("magic_links")
@pytest.mark.parametrize("action", ["read", "write"])
@pytest.mark.parametrize(("path", "error"), sorted(SPECIAL.items()))
def test_what_is_no_regular_file_is_refused_and_never_waited_for(
    trapped: Outcome, action: str, path: str, error: str
) -> None:
    assert trapped.answers()[f"{action} {path}"]["error"] == error


@control("magic_links")
def test_a_program_that_follows_links_reads_by_them(each_attacker: Attacker) -> None:
    follow = (
        "def attempt(path):\n"
        "    try:\n"
        "        with open(path, 'rb') as file: return len(file.read(10))\n"
        "    except OSError: return 0\n"
        "print([attempt(path) for path in ('passwd', 'environ', 'zero', 'root/etc/passwd', 'magic/etc/passwd')])\n"
    )
    outcome = each_attacker.run([python("traps", TRAPS)], [python("follow", follow)])
    assert outcome.printed("follow").split() == ["[10,", "10,", "10,", "10,", "10]"]


def test_a_huge_sparse_file_is_not_read_into_memory(trapped: Outcome) -> None:
    assert trapped.answers()["read sparse"]["error"] == "not_text"


# --- races ------------------------------------------------------------------------------------------------------------
EXCHANGE = """
import ctypes, os, sys, time
target, seconds = sys.argv[1], float(sys.argv[2])
if not os.path.lexists('link'):
    os.makedirs('real', exist_ok=True); open('real/passwd', 'w').write('INSIDE'); os.symlink(target, 'link')
libc = ctypes.CDLL(None)
def exchange():
    if libc.syscall(316, -100, b'real', -100, b'link', 2):  # renameat2, RENAME_EXCHANGE, which gVisor has not
        os.rename('real', 'aside'); os.rename('link', 'real'); os.rename('aside', 'link')
"""
AGAIN_AND_AGAIN = (
    EXCHANGE
    + """
end, swaps = time.monotonic() + seconds, 0
while time.monotonic() < end:
    exchange(); swaps += 1
print(swaps)
"""
)
# What the controls run goes on beside a child that exchanges. For the writer it does so between the look and the
# opening, each time: that a path that was checked need not be the one that is opened is what it shows, not luck.
NAIVE_READS = (
    EXCHANGE
    + """
seen, end = set(), time.monotonic() + seconds
child = os.fork()
if child == 0:
    while time.monotonic() < end: exchange()
    os._exit(0)
while time.monotonic() < end and len(seen) < 2:
    try: seen.add(open('real/passwd').read()[:4])
    except OSError: pass
os.kill(child, 9); os.waitpid(child, 0)
print(seen)
"""
)
NAIVE_WRITES = (
    EXCHANGE
    + """
path, (looked, say), (exchanged, tell) = 'real/written', os.pipe(), os.pipe()
if os.fork() == 0:
    os.close(say)
    while os.read(looked, 1): exchange(); os.write(tell, b'.')
    os._exit(0)
os.close(tell)
for _ in range(4):
    if not os.path.realpath(path).startswith(os.getcwd() + '/'): continue
    os.write(say, b'.'); os.read(exchanged, 1)
    open(path, 'w').close()
os.close(say); os.wait()
print(os.listdir(target))
"""
)
WAIT = "import os, time\nwhile not os.path.lexists('link'): time.sleep(.001)\n"
LEAST_EXCHANGES = {"runc": 1000, "runsc": 100}


def exchange(target: str, seconds: float = 2.5) -> Any:
    return python("swap", AGAIN_AND_AGAIN, target, str(seconds))


@attack("symlink_race")
def test_a_directory_that_becomes_a_link_and_back_never_leads_out(each_attacker: Attacker, runtime: str) -> None:
    reads = [tool(f"read {place}", "readTextFile", path="real/passwd") for place in range(150)]
    outcome = each_attacker.run([exchange("/etc"), python("wait", WAIT), *reads])
    answers = outcome.answers()
    assert int(answers["swap"]["output"]) > LEAST_EXCHANGES[runtime]
    seen = Counter(
        str(answer.get("content") or answer["error"]) for name, answer in answers.items() if name.startswith("read")
    )
    assert set(seen) <= {"INSIDE", *ERRORS}, seen


@control("symlink_race")
def test_a_program_that_opens_by_path_is_led_out(each_attacker: Attacker) -> None:
    printed = each_attacker.run([python("naive", NAIVE_READS, "/etc", "3")]).printed("naive")
    assert "root" in printed


ERRORS = {"not_found", "path_outside_workspace", "not_a_directory", "too_many_links"}
OUTSIDE_WRITES = "import os; print(os.listdir('/tmp/outside'))"
MAKE_OUTSIDE = python("make", "import os; os.mkdir('/tmp/outside')")


@attack("rename_race")
def test_nothing_is_written_outside_while_directories_change_their_places(each_attacker: Attacker) -> None:
    writes = [tool(f"write {place}", "writeTextFile", path="real/written", text="x") for place in range(150)]
    turn = [exchange("/tmp/outside"), *writes]
    outcome = each_attacker.run([MAKE_OUTSIDE], turn, [python("seen", OUTSIDE_WRITES)])
    assert outcome.printed("seen") == "[]\n"
    errors = {
        answer["error"] for answer in outcome.answers().values() if isinstance(answer, dict) and "error" in answer
    }
    assert errors <= ERRORS


@control("rename_race")
def test_a_program_that_checks_and_then_writes_writes_outside(each_attacker: Attacker) -> None:
    outcome = each_attacker.run([MAKE_OUTSIDE], [python("naive", NAIVE_WRITES, "/tmp/outside", "0")])
    assert outcome.printed("naive") == "['written']\n"


# --- the host reads ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Reads:
    """What readers on the host got of `real/passwd` while a sandbox exchanged `real` and a link out of the tree."""

    beneath: set[bytes]
    archive: set[bytes]
    naive_read: set[bytes]
    naive_archive: set[bytes]


@pytest.fixture(scope="module")
def reads(each_attacker: Attacker) -> Reads:
    outside = each_attacker.daemon.home / "outside"
    outside.mkdir()
    (outside / "passwd").write_bytes(b"OUTSIDE")
    found = Reads(set(), set(), set(), set())
    swapping = threading.Thread(
        target=lambda: each_attacker.run([exchange(str(outside), 3)], workspace=str(each_attacker.project))
    )
    swapping.start()
    try:
        while swapping.is_alive():
            read_all(each_attacker.project, found)
    finally:
        swapping.join(60)
        for name in ("real", "link"):
            path = each_attacker.project / name
            path.unlink() if path.is_symlink() else shutil.rmtree(path, ignore_errors=True)
    return found


def read_all(project: Path, found: Reads) -> None:
    with suppress(PerstackError):
        found.beneath.add(read_beneath(str(project), "real/passwd", 100))
    with suppress(OSError):
        found.naive_read.add((project / "real/passwd").read_bytes())
    root = os.open(project, os.O_PATH | os.O_DIRECTORY)
    try:
        with suppress(OSError, PerstackError):
            found.naive_archive.update(contents(naively_packed(project)))
        with suppress(OSError, PerstackError):
            found.archive.update(contents(b"".join(packed(root, "", 1 << 20, 100))))
    finally:
        os.close(root)


def naively_packed(top: Path) -> bytes:
    """A walk by names: between the look at an entry and its opening it may have become another."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        if not (top / "real").is_symlink():
            time.sleep(0.001)
            archive.add(top / "real/passwd", "real/passwd")
    return buffer.getvalue()


def contents(data: bytes) -> set[bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = [archive.extractfile(member) for member in archive if member.isreg()]
        return {file.read() for file in files if file is not None}


@attack("host_reader")
def test_the_host_reads_nothing_outside_of_a_workspace_that_changes(reads: Reads) -> None:
    assert reads.beneath - {b""} == {b"INSIDE"}, "the file inside, which is empty for a moment when it is made"


@control("host_reader")
def test_a_reader_that_opens_by_path_is_led_out(reads: Reads) -> None:
    assert b"OUTSIDE" in reads.naive_read


@attack("host_archive")
def test_the_host_packs_nothing_outside_of_a_workspace_that_changes(reads: Reads) -> None:
    assert reads.archive - {b""} == {b"INSIDE"}


@control("host_archive")
def test_a_packer_that_opens_by_path_is_led_out(reads: Reads) -> None:
    assert b"OUTSIDE" in reads.naive_archive


# --- what comes back to the host --------------------------------------------------------------------------------------
MAKE = """
import os, subprocess
def attempt(act):
    try: act(); print('done')
    except (OSError, subprocess.CalledProcessError) as error: print('refused')
open('plain', 'w').close()
for mode in (0o4755, 0o2755): attempt(lambda: os.chmod('plain', mode))
attempt(lambda: os.open('created', os.O_CREAT | os.O_WRONLY, 0o4755))
attempt(lambda: os.mknod('null', 0o20666, os.makedev(1, 3)))
attempt(lambda: os.mknod('whiteout', 0o20666, 0))
attempt(lambda: os.chown('plain', 0, 0))
attempt(lambda: subprocess.run(['cp', '-p', '/bin/sh', 'shell'], check=True))
attempt(lambda: os.link('/etc/passwd', 'passwd'))
attempt(lambda: os.setxattr('plain', 'security.capability', b'\\1\\0\\0\\2' + bytes(16)))
"""


@attack("setuid_through_workspace")
def test_no_setuid_file_device_or_foreign_owner_reaches_the_host_through_a_workspace(each_attacker: Attacker) -> None:
    outcome = each_attacker.run([python("make", MAKE)], workspace=str(each_attacker.project))
    assert outcome.code == 0, outcome.stderr
    assert outcome.printed("make").split() == ["refused"] * 6 + ["done"] + ["refused"] * 2
    found = {path.name: path.lstat() for path in each_attacker.project.iterdir()}
    assert set(found) == {"plain", "shell"}
    assert [name for name, file in found.items() if file.st_mode & (stat.S_ISUID | stat.S_ISGID)] == []
    assert {file.st_uid for file in found.values()} == {os.stat(each_attacker.project).st_uid}


@control("setuid_through_workspace")
def test_a_directory_that_is_bound_as_it_is_brings_them_to_the_host(rig: Rig) -> None:
    top = rig.root / "bound"
    top.mkdir()

    def bound(options: Options) -> None:
        weaken(options)
        options["HostConfig"]["Binds"].append(f"{top}:/mnt/bound")

    with started(rig, bound) as container:
        lines = run_inside(container, f"import os\nos.chdir('/mnt/bound')\n{MAKE}").split()
    found = {path.name: path.lstat() for path in top.iterdir()}
    assert lines[:7] == ["done"] * 7
    assert lines[8] == "done"
    assert found["created"].st_uid == 0
    assert found["created"].st_mode & stat.S_ISUID
    assert stat.S_ISCHR(found["null"].st_mode)
    assert stat.S_ISCHR(found["whiteout"].st_mode)


# --- other jobs -------------------------------------------------------------------------------------------------------
WRITE = python("w", "open('mine', 'w').write('tenant data 7281')")
LOOK = """
import os
for top, _, names in os.walk('/'):
    if top.startswith(('/proc', '/sys')): continue
    for name in names:
        if name == 'mine': print(top)
"""


@attack("other_workspace")
def test_another_jobs_workspace_is_nowhere(each_attacker: Attacker) -> None:
    assert each_attacker.run([WRITE], workspace="first").code == 0
    assert each_attacker.run([python("look", LOOK)], workspace="second").printed("look") == ""


@control("other_workspace")
def test_a_job_on_the_same_workspace_finds_it(each_attacker: Attacker) -> None:
    assert each_attacker.run([WRITE], workspace="third").code == 0
    assert each_attacker.run([python("look", LOOK)], workspace="third").printed("look") == "/mnt/workspace\n"
