"""Probes that run inside a sandbox: `python3 -c SOURCE PORT ABSTRACT` prints {probe: [it succeeded, what was seen]}.

Standard library only, nothing imported from the project. Each function is one attack; its name is the probe's stable
id. A probe returns what it got and raises OSError when it was refused. It never harms what it reaches.
"""

import ctypes
import glob
import json
import os
import socket
import sys
from collections.abc import Callable

Probe = Callable[[], object]
PROBES: dict[str, Probe] = {}
LIBC = ctypes.CDLL(None, use_errno=True)
NEW_USER = 0x1000_0000


def probe(function: Probe) -> Probe:
    PROBES[function.__name__] = function
    return function


def system_call(number: int, *arguments: object) -> int:
    result: int = LIBC.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def others() -> list[int]:
    """The first process and what it started: tini and the runner."""
    found = [int(path.split("/")[2]) for path in glob.glob("/proc/[0-9]*/stat")]
    return [pid for pid in found if pid == 1 or (parent(pid) == 1 and pid != os.getpid())]


def parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def of_any_other(attempt: Callable[[int], object]) -> object:
    refusal = OSError("no other process")
    for pid in others():
        try:
            return pid, attempt(pid)
        except OSError as error:
            refusal = error
    raise refusal


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(64)


def writable(path: str) -> str:
    os.close(os.open(path, os.O_WRONLY))
    return path


def dialled(family: int, address: object) -> str:
    with socket.socket(family) as client:
        client.settimeout(2)
        client.connect(address)  # type: ignore[arg-type]
    return repr(address)


# --- privilege --------------------------------------------------------------------------------------------------------
@probe
def capabilities() -> object:
    with open("/proc/self/status") as file:
        lines = [line for line in file if line.startswith("Cap")]
    held = [line.split() for line in lines if int(line.split()[1], 16)]
    if not held:
        raise PermissionError("none")
    return held


@probe
def root_uid() -> object:
    if os.getuid():
        raise PermissionError(f"uid {os.getuid()}")
    return 0


@probe
def user_namespace() -> object:
    child = os.fork()
    if child == 0:
        os._exit(0 if LIBC.unshare(NEW_USER) == 0 else 1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise PermissionError("unshare was refused")
    return "a namespace of its own"


@probe
def mount() -> object:
    os.makedirs("/tmp/probe-mount", exist_ok=True)
    if LIBC.mount(b"none", b"/tmp/probe-mount", b"tmpfs", 0, None):
        raise OSError(ctypes.get_errno(), "mount")
    LIBC.umount2(b"/tmp/probe-mount", 2)
    return "mounted"


@probe
def new_mount_api() -> object:
    return system_call(430, b"tmpfs", 0)  # fsopen


@probe
def chroot() -> object:
    child = os.fork()
    if child == 0:
        os._exit(0 if LIBC.chroot(b"/tmp") == 0 else 1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise PermissionError("chroot was refused")
    return "changed"


@probe
def keyring() -> object:
    return system_call(248, b"user", b"probe", b"x", ctypes.c_size_t(1), -2)  # add_key, process keyring


@probe
def device_node() -> object:
    os.mknod("/tmp/probe-null", 0o020666, os.makedev(1, 3))
    return "made"


@probe
def setuid_bit() -> object:
    with open("/tmp/probe-setuid", "w"):
        os.chmod("/tmp/probe-setuid", 0o4755)
    return oct(os.stat("/tmp/probe-setuid").st_mode)


@probe
def setuid_bit_at_creation() -> object:
    made = os.open("/tmp/probe-setuid-2", os.O_CREAT | os.O_WRONLY, 0o4755)
    try:
        return oct(os.fstat(made).st_mode)
    finally:
        os.close(made)


@probe
def io_uring() -> object:
    return system_call(425, 1, ctypes.create_string_buffer(120))


# --- the host ---------------------------------------------------------------------------------------------------------
@probe
def engine_socket() -> object:
    for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"):
        if os.path.exists(path):
            return dialled(socket.AF_UNIX, path)
    raise FileNotFoundError("no engine socket")


@probe
def host_files() -> object:
    hosts = [place for place in ("/host/etc/shadow", "/proc/1/root/host/etc/shadow") if os.path.exists(place)]
    return content((hosts or ["/host"])[0])[:4].hex()


@probe
def image_write() -> object:
    os.close(os.open("/usr/bin/probe", os.O_CREAT | os.O_WRONLY))
    return "written"


@probe
def identity_write() -> object:
    return writable("/etc/passwd")


@probe
def core_pattern() -> object:
    return writable("/proc/sys/kernel/core_pattern")


@probe
def host_settings() -> object:
    return writable("/proc/sys/vm/drop_caches")


@probe
def kernel_log() -> object:
    return system_call(103, 10, None, 0)  # syslog: size of the buffer


# --- the runner -------------------------------------------------------------------------------------------------------
@probe
def runner_environ() -> object:
    return of_any_other(lambda pid: len(content(f"/proc/{pid}/environ")))


@probe
def runner_memory() -> object:
    return of_any_other(lambda pid: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)))


@probe
def runner_root() -> object:
    return of_any_other(lambda pid: os.listdir(f"/proc/{pid}/root/"))


@probe
def runner_descriptors() -> object:
    return of_any_other(lambda pid: os.readlink(f"/proc/{pid}/fd/0"))


@probe
def runner_ptrace() -> object:
    def seized(pid: int) -> int:
        return system_call(101, 0x4206, pid, 0, 0)  # PTRACE_SEIZE; ends with this process

    return of_any_other(seized)


@probe
def runner_signal() -> object:
    return of_any_other(lambda pid: os.kill(pid, 0))


@probe
def gateway_write() -> object:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("/gw/probe.sock")
    return os.listdir("/gw")


@probe
def slot_write() -> object:
    os.mkdir("/mnt/probe")
    return "made"


# --- the network ------------------------------------------------------------------------------------------------------
@probe
def raw_socket() -> object:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).fileno()


@probe
def packet_socket() -> object:
    return socket.socket(17, socket.SOCK_RAW, 3).fileno()


@probe
def uevents() -> object:
    return socket.socket(16, socket.SOCK_DGRAM, 15).fileno()


@probe
def interfaces() -> object:
    found = [name for name in os.listdir("/sys/class/net") if name != "lo"]
    if not found:
        raise OSError("loopback only")
    return found


@probe
def host_loopback() -> object:
    return dialled(socket.AF_INET, ("127.0.0.1", int(sys.argv[1])))


@probe
def abstract_socket() -> object:
    return dialled(socket.AF_UNIX, "\0" + sys.argv[2])


def main() -> None:
    seen: dict[str, tuple[bool, str]] = {}
    for name, attack in PROBES.items():
        try:
            seen[name] = (True, repr(attack())[:200])
        except OSError as error:
            seen[name] = (False, repr(error)[:200])
    sys.stdout.write(json.dumps(seen))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
