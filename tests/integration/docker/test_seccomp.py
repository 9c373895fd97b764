"""The profile on a real engine: what it refuses and how, and that programs run under it.

The control is the same program in the same container without a filter: there the refused calls answer otherwise.
"""

import json
import platform
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from tests.integration.docker.rig import DAEMON_ID, SECCOMP, docker

pytestmark = pytest.mark.docker

PROBE = Path(__file__).with_name("syscalls.py")
HARD = ("--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none", "--user=200001:200001", "--read-only")
X86 = platform.machine() == "x86_64"
OTHER_ABIS = tuple(f"{abi} {name}" for abi, name in product(("x32", "32-bit"), ("getpid", "mknod", "mknodat")))


def run(
    *command: str,
    seccomp: str = str(SECCOMP),
    image: str = "perstack/base:latest",
    text: str = "",
    more: tuple[str, ...] = (),
) -> str:
    entrypoint, *arguments = command
    return docker(
        *("run", "--rm", "--interactive", f"--label=dev.perstack.daemon={DAEMON_ID}", *HARD, "--tmpfs=/tmp:exec"),
        *(*more, f"--security-opt=seccomp={seccomp}", f"--entrypoint={entrypoint}", image),
        *arguments,
        text=text,
    )


@cache
def answers(seccomp: str = str(SECCOMP), more: tuple[str, ...] = ()) -> dict[str, str]:
    text = run("python3", "-I", "-", "/tmp", seccomp=seccomp, text=PROBE.read_text(), more=more)
    found: dict[str, str] = json.loads(text)
    return found


SCHEDULING = ("sched_setscheduler", "sched_setparam", "sched_setattr", "sched_setaffinity", "setpriority", "ioprio_set")
OF_OTHERS = (*(f"{name} other" for name in SCHEDULING), "setpriority group", "setpriority user", "ioprio_set group")
ABSENT = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register", "openat2", "fchmodat2")
REFUSED = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "vmsplice", "memfd_secret"),
    *("remap_file_pages", "unshare user", "unshare network", "setns", "mount", "bpf", "perf_event_open"),
    *("userfaultfd", "keyctl", "add_key", "open_by_handle_at", "personality no randomisation", "prlimit64 other"),
    *(f"clone {name}" for name in ("NS", "CGROUP", "UTS", "IPC", "USER", "PID", "NET")),
    *(f"socket {name}" for name in ("netlink uevent", "packet", "vsock", "alg", "bluetooth")),
    "socketpair tipc",
    *OF_OTHERS,
    *(("modify_ldt",) if X86 else ()),
)
ALLOWED = (
    *("clone plain", "landlock", "pidfd_open", "memfd_create", "membarrier", "close_range", "statx"),
    *("socket unix", "socket inet", "socket inet6", "socket netlink route", "socketpair unix", "prlimit64 own"),
    "personality question",
    *(f"{name} own" for name in SCHEDULING),
)
MAKES_NODES = ("mknodat", *(("mknod",) if X86 else ()))
HARMLESS = ("nothing", "file", "fifo", "socket", "fifo and high bits")
OF_ANYONE = ("whiteout", "whiteout and high bits")
DEVICES = (*OF_ANYONE, "character device", "block device", "block device 0")
WHITEOUTS = ("renameat2 whiteout", "renameat2 whiteout only")
MAY_MAKE_DEVICES = ("--user=0:0", "--cap-add=MKNOD")
BY_MODE = (
    *("fchmod", "fchmodat", "openat", "openat tmpfile", "mkdirat", "mknodat"),
    *(("chmod", "open", "creat", "mkdir", "mknod") if X86 else ()),
)


@pytest.mark.parametrize("name", ABSENT)
def test_calls_that_have_an_older_way_do_not_exist(name: str) -> None:
    assert answers()[name] == "ENOSYS"


@pytest.mark.parametrize("name", REFUSED)
def test_dangerous_calls_are_not_permitted(name: str) -> None:
    assert answers()[name] == "EPERM"


@pytest.mark.parametrize("name", ALLOWED)
def test_ordinary_calls_work(name: str) -> None:
    assert answers()[name] == "ok"


def test_memory_protection_keys_are_the_processors_matter() -> None:
    assert answers()["pkey_alloc"] == answers("unconfined")["pkey_alloc"]


@pytest.mark.parametrize("name", BY_MODE)
def test_no_call_sets_the_setuid_or_setgid_bit(name: str) -> None:
    found = {bits: answers()[f"{name} {bits}"] for bits in ("setuid", "setgid", "sticky", "none")}
    assert found == {"setuid": "EPERM", "setgid": "EPERM", "sticky": "ok", "none": "ok"}


@pytest.mark.parametrize("call", MAKES_NODES)
def test_nodes_of_every_kind_but_devices_are_made(call: str) -> None:
    assert {kind: answers()[f"{call} {kind}"] for kind in HARMLESS} == dict.fromkeys(HARMLESS, "ok")
    refused = (*DEVICES, "fifo setuid", "socket setgid")
    assert {kind: answers()[f"{call} {kind}"] for kind in refused} == dict.fromkeys(refused, "EPERM")


@pytest.mark.parametrize("call", MAKES_NODES)
def test_who_has_the_capability_makes_no_device_either(call: str) -> None:
    """The control: the same root without the filter makes all of them."""
    filtered, free = answers(more=MAY_MAKE_DEVICES), answers("unconfined", MAY_MAKE_DEVICES)
    assert {kind: filtered[f"{call} {kind}"] for kind in DEVICES} == dict.fromkeys(DEVICES, "EPERM")
    assert {kind: free[f"{call} {kind}"] for kind in DEVICES} == dict.fromkeys(DEVICES, "ok")


@pytest.mark.parametrize("name", ["plain", "no replacing", "exchange"])
def test_renaming_works(name: str) -> None:
    assert answers()[f"renameat2 {name}"] == "ok"


@pytest.mark.parametrize("name", WHITEOUTS)
def test_renaming_leaves_no_device(name: str) -> None:
    assert answers()[name] == "EPERM"


@pytest.mark.skipif(not X86, reason="the other ABIs of x86_64")
@pytest.mark.parametrize("name", OTHER_ABIS)
def test_another_abi_kills_whoever_uses_it(name: str) -> None:
    assert answers()[name] == "SIGSYS"


@pytest.mark.parametrize(
    "name",
    [
        *("clone3", "openat2", "fchmodat2", "ptrace", "process_vm_readv", "vmsplice", "unshare user", "clone USER"),
        *("memfd_secret", "personality no randomisation", "prlimit64 other", "socket netlink uevent"),
        *OF_OTHERS,
        *(f"{name} {bits}" for name in BY_MODE if not name.startswith("mkdir") for bits in ("setuid", "setgid")),
        *(f"{name} {kind}" for name in MAKES_NODES for kind in (*OF_ANYONE, "fifo setuid", "socket setgid")),
        *WHITEOUTS,
        *((*OTHER_ABIS, "modify_ldt") if X86 else ()),
    ],
)
def test_without_the_filter_the_same_call_answers_otherwise(name: str) -> None:
    assert answers("unconfined")[name] not in {answers()[name], "EPERM"}


def test_python_runs_threads_processes_and_an_event_loop() -> None:
    program = """
import asyncio, ctypes, multiprocessing, os, sqlite3, ssl, subprocess, tempfile, threading
done = []
threads = [threading.Thread(target=done.append, args=(n,)) for n in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
async def echo():
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    server.close()
    return (await child.communicate(b"hello"))[0]
with tempfile.TemporaryDirectory() as top, multiprocessing.get_context("fork").Pool(2) as pool:
    os.chmod(top, 0o755)
    connection = sqlite3.connect(top + "/x"); connection.execute("create table t (a)"); connection.close()
    print(len(done), asyncio.run(echo()), sum(pool.map(abs, range(4))), subprocess.check_output(["echo", "out"]))
"""
    assert run("python3", "-I", "-c", program) == "8 b'hello' 6 b'out\\n'"


def full(script: str) -> str:
    """What a shell of the full image says, under the same profile."""
    return run("sh", "-c", f"set -e; export HOME=/tmp; cd /tmp; {script}", image="perstack/full:latest")


def test_git_runs() -> None:
    script = """
git init -q work; cd work; echo text > file; git add file
git -c user.name=a -c user.email=a@b commit -q -m first; git clone -q /tmp/work /tmp/copy; git -C /tmp/copy gc -q
git -C /tmp/copy log --format=%s; git -C /tmp/copy fsck --strict
"""
    assert full(script).startswith("first")


def test_node_runs() -> None:
    program = """
const { Worker } = require("worker_threads"), fs = require("fs"), { execFileSync } = require("child_process")
const net = require("net"), { promisify } = require("util"), zlib = require("zlib")
fs.writeFileSync("/tmp/x", "text")
const server = net.createServer().listen(0, "127.0.0.1", () => { server.close()
  new Worker(`require("worker_threads").parentPort.postMessage(6 * 7)`, { eval: true }).on("message", async (n) =>
    console.log(n, fs.readFileSync("/tmp/x", "utf8"), execFileSync("echo", ["child"]).toString().trim(),
      (await promisify(zlib.gzip)("x".repeat(99999))).length < 999, process.versions.node.split(".")[0] >= 24)) })
"""
    assert full(f"node -e '{program}'") == "42 text child true true"


def test_npm_packs_and_runs_a_package_of_its_own() -> None:
    script = """
mkdir p; cd p; echo '{"name": "p", "version": "1.0.0", "bin": "p.js"}' > package.json
echo '#!/usr/bin/env node' > p.js; echo 'console.log(6 * 7)' >> p.js; npm pack --silent >/dev/null
mkdir /tmp/q; cd /tmp/q; npm install --silent --offline /tmp/p/p-1.0.0.tgz >/dev/null; npx --offline p
"""
    assert full(script) == "42"


def test_uv_makes_an_environment_of_the_images_python() -> None:
    assert full("uv venv -q --offline v; v/bin/python -c 'print(6 * 7)'") == "42"


def test_uv_asks_nobody_for_another_python() -> None:
    assert "Python downloads are set to 'never'" in full("uv venv --python 3.13 v 2>&1 || true")


def test_gh_runs() -> None:
    assert full("gh version").startswith("gh version ")
