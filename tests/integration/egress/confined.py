"""Runs as a child of test_confine: confines itself as the proxy does, then tries one thing, and prints what came of it.

`python -m tests.integration.egress.confined WHAT`; with `unconfined` in front it is the control.
"""

import ctypes
import json
import mmap
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

from perstack_egress.confine import confine

LIBC = ctypes.CDLL(None, use_errno=True)


def read(path: str) -> str:
    with open(path, "rb") as file:
        return f"read {len(file.read(64)) > 0}"


def write(path: str) -> str:
    with open(path, "wb") as file:
        file.write(b"x")
    return "written"


def unix() -> str:
    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).close()
    return "made"


def raw() -> str:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()
    return "made"


def listen() -> str:
    with socket.socket() as server:  # an unbound socket gets a port of its own
        server.listen()
    return "listening"


def code() -> str:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    return "mapped"


def end_parent() -> str:
    os.kill(os.getppid(), 0)
    return "reached"


def become_root() -> str:
    os.setuid(0)
    return "root"


def fork() -> str:
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    return "forked"


def resolve() -> str:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(str(socket.getaddrinfo("localhost", 443)[0][4][0])))
    thread.start()
    thread.join(10)
    return found[0]


def call(number: int, *arguments: int) -> str:
    if LIBC.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
    return "called"


def connect(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=5):  # the backlog takes it
        return "connected"


TRIES: dict[str, Callable[[], str]] = {
    "read /etc/passwd": lambda: read("/etc/passwd"),
    "read /etc/hosts": lambda: read("/etc/hosts"),
    "read /etc/resolv.conf": lambda: read("/etc/resolv.conf"),
    "read python": lambda: read(os.__file__),
    "read /proc/self/environ": lambda: read("/proc/self/environ"),
    "list /etc": lambda: f"{len(os.listdir('/etc')) > 0}",
    "write /tmp": lambda: write(f"/tmp/perstack-egress-confined-{os.getpid()}"),
    "write /dev/shm": lambda: write(f"/dev/shm/perstack-egress-confined-{os.getpid()}"),
    "unix socket": unix,
    "raw socket": raw,
    "listen": listen,
    "code in memory": code,
    "signal": end_parent,
    "setuid": become_root,
    "resolve": resolve,
    "connect": lambda: connect(int(sys.argv[-1])),
    "pipe": lambda: str(len(os.pipe())),
    "io_uring": lambda: call(425, 8, 0),
    "exec": lambda: str(os.execv("/bin/true", ["true"])),
    "fork": fork,
    "ptrace": lambda: call({"x86_64": 101, "aarch64": 117}[os.uname().machine], 0, 0, 0, 0),
    "unshare": lambda: call({"x86_64": 272, "aarch64": 97}[os.uname().machine], 0x10000000),
    "bpf": lambda: call({"x86_64": 321, "aarch64": 280}[os.uname().machine], 0, 0, 0),
}


def main() -> None:
    weak = sys.argv[1] == "unconfined"
    what = TRIES[sys.argv[2 if weak else 1]]
    if weak:
        signal.alarm(20)
    else:
        confine(65534, 65534)
    try:
        outcome = what()
    except OSError as error:
        outcome = f"refused {error.errno}"
    sys.stdout.write(json.dumps(outcome))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
