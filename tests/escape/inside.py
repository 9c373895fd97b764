"""Probes that run inside a sandbox: `python3 -c SOURCE PORT ABSTRACT [PROBE...]` prints {probe: [succeeded, seen]}.

Standard library only, nothing imported from the project. Each function is one attack, by its name in `attacks`. A probe
returns what it got and raises OSError when it was refused. It never harms what it reaches.
"""

import ctypes
import errno
import fcntl
import glob
import json
import mmap
import os
import signal
import socket
import stat
import struct
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


def may(number: int, *arguments: object, answers: int) -> str:
    """A call that does nothing: one who may make it gets the error `answers` for its senseless arguments."""
    try:
        system_call(number, *arguments)
    except OSError as error:
        if error.errno != answers:
            raise
    return "it may"


def in_child(attempt: Callable[[], int]) -> str:
    """A child tries it, because it would change this process; 0 is success."""
    child = os.fork()
    if child == 0:
        os._exit(0 if attempt() == 0 else 1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise PermissionError("refused")
    return "done"


def opened(path: str, flags: int) -> str:
    os.close(os.open(path, flags))
    return path


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


def somewhere(attempt: Callable[[str], object]) -> object:
    """In a file system that can hold what it makes: an overlay holds no whiteout."""
    refusal = OSError("no directory")
    for top in ("/tmp", "/dev/shm", "/host/run"):
        try:
            return top, attempt(top)
        except OSError as error:
            refusal = error if os.path.isdir(top) else refusal
    raise refusal


def content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(64)


def writable(path: str) -> str:
    return opened(path, os.O_WRONLY)


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
    return in_child(lambda: LIBC.unshare(NEW_USER))


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
    return in_child(lambda: LIBC.chroot(b"/tmp"))


@probe
def keyring() -> object:
    return system_call(248, b"user", b"probe", b"x", ctypes.c_size_t(1), -2)  # add_key, process keyring


@probe
def device_node() -> object:
    os.mknod("/tmp/probe-null", 0o020666, os.makedev(1, 3))
    return "made"


@probe
def whiteout_node() -> object:
    """By both calls: 133 is mknod, 259 mknodat."""

    def made(top: str) -> int:
        path = f"{top}/probe-whiteout".encode()
        try:
            return system_call(133, path, 0o020666, 0)
        except OSError:
            return system_call(259, -100, path, 0o020666, 0)

    return somewhere(made)


@probe
def whiteout_by_renaming() -> object:
    def left(top: str) -> str:
        with open(f"{top}/probe-old", "w"):
            system_call(316, -100, f"{top}/probe-old".encode(), -100, f"{top}/probe-new".encode(), 4)  # RENAME_WHITEOUT
        return oct(os.lstat(f"{top}/probe-old").st_mode)

    return somewhere(left)


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


@probe
def mount_namespace() -> object:
    return in_child(lambda: LIBC.unshare(0x2_0000))


@probe
def other_namespace() -> object:
    def joined(pid: int) -> int:
        return system_call(308, os.open(f"/proc/{pid}/ns/net", os.O_RDONLY), 0x4000_0000)  # setns

    return of_any_other(joined)


@probe
def session_keyring() -> object:
    return system_call(250, 1, b"perstack-probe")  # keyctl: joins one by its name


@probe
def file_handles() -> object:
    handle, mount_id = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128)), ctypes.c_int()
    system_call(303, -100, b"/gw", handle, ctypes.byref(mount_id), 0)  # name_to_handle_at
    beside = os.open("/gw", os.O_RDONLY)
    return system_call(304, beside, handle, os.O_RDONLY)  # open_by_handle_at: any file of the file system


@probe
def file_capability() -> object:
    with open("/tmp/probe-capability", "w"):
        os.setxattr("/tmp/probe-capability", "security.capability", struct.pack("<5I", 0x0200_0001, 1, 0, 0, 0))
    return "set"


@probe
def become_root() -> object:
    return in_child(lambda: LIBC.setresuid(0, 0, 0))


@probe
def clock() -> object:
    return system_call(164, None, struct.pack("ii", 0, 0))  # settimeofday: the time zone that the kernel has anyway


@probe
def network_settings() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        now = fcntl.ioctl(asking, 0x8913, struct.pack("16sH14x", b"lo", 0))  # SIOCGIFFLAGS
        return fcntl.ioctl(asking, 0x8914, now).hex()  # SIOCSIFFLAGS: as they are


@probe
def priority() -> object:
    return in_child(lambda: LIBC.setpriority(0, 0, -5))


@probe
def reboot() -> object:
    return may(169, 0xFEE1_DEAD, 1, 0, 0, answers=errno.EINVAL)  # a second magic number that is none


@probe
def swap() -> object:
    return may(167, b"/nowhere", 0, answers=errno.ENOENT)


@probe
def hostname() -> object:
    name = os.uname().nodename.encode()
    return system_call(170, name, len(name))


@probe
def bpf() -> object:
    array = ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 4, 1) + bytes(112))
    return system_call(321, 0, array, 128)  # BPF_MAP_CREATE


@probe
def performance_events() -> object:
    everything = ctypes.create_string_buffer(struct.pack("IIQ", 1, 112, 0) + bytes(100))
    return system_call(298, everything, -1, 0, -1, 0)  # of all processes on one processor


@probe
def foreign_file() -> object:
    return opened("/etc/shadow", os.O_RDONLY)


@probe
def foreign_owner() -> object:
    with open("/tmp/probe-owner", "w"):
        os.chown("/tmp/probe-owner", os.getuid() + 1, -1)
    return os.stat("/tmp/probe-owner").st_uid


@probe
def foreign_groups() -> object:
    return in_child(lambda: LIBC.setgroups(1, struct.pack("I", 1)))


@probe
def accounting() -> object:
    return may(163, b"/nowhere/at/all", answers=errno.ENOENT)  # acct


@probe
def hang_up() -> object:
    return system_call(153)  # vhangup: of a terminal that there is not


@probe
def cloned_namespace() -> object:
    """A child by clone, not by unshare, and by clone3 where that is there."""
    try:
        child = system_call(56, NEW_USER | signal.SIGCHLD, 0, 0, 0, 0)
    except OSError:
        child = system_call(435, struct.pack("QQQQQQQQ", NEW_USER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64)
    if child == 0:
        os._exit(0)
    return os.waitpid(child, 0)[0] == child


@probe
def page_faults() -> object:
    return system_call(323, 0)  # userfaultfd


@probe
def host_device() -> object:
    os.mknod("/tmp/probe-kmsg", 0o020666, os.makedev(1, 11))
    return opened("/tmp/probe-kmsg", os.O_RDONLY | os.O_NONBLOCK)


@probe
def release_agent() -> object:
    os.makedirs("/tmp/probe-cgroup", exist_ok=True)
    if LIBC.mount(b"cgroup", b"/tmp/probe-cgroup", b"cgroup", 0, b"memory"):
        raise OSError(ctypes.get_errno(), "mount")
    try:
        return writable("/tmp/probe-cgroup/release_agent")
    finally:
        LIBC.umount2(b"/tmp/probe-cgroup", 2)


@probe
def sys_write() -> object:
    LIBC.mount(b"none", b"/sys", None, 0x1000 | 0x20, None)  # a bind mount, remounted without read-only
    return writable("/sys/kernel/mm/transparent_hugepage/enabled")


@probe
def hard_link() -> object:
    os.link("/usr/bin/env", "/tmp/probe-link")
    return os.stat("/tmp/probe-link").st_nlink


@probe
def other_sockets() -> object:
    """Every socket that there is but the sandbox's own way out."""
    found = []
    for top, directories, names in os.walk("/"):
        directories[:] = [name for name in directories if os.path.join(top, name) not in {"/proc", "/sys"}]
        found += [f"{top}/{name}" for name in names if stat.S_ISSOCK(os.lstat(f"{top}/{name}").st_mode)]
    for path in found:
        if path != "/gw/egress.sock" and "docker" not in path:
            return dialled(socket.AF_UNIX, path)
    raise FileNotFoundError("no socket of another")


@probe
def other_processes() -> object:
    seen = sorted(int(path.split("/")[2]) for path in glob.glob("/proc/[0-9]*/stat"))
    if len(seen) > 3:  # tini, what it started, and this one
        return seen[:8]
    raise FileNotFoundError(f"only {seen}")


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
def other_abi() -> object:
    """getpid by the 32-bit gate, as machine code: in its table the family of a socket is behind a pointer."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
    getpid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return in_child(lambda: getpid() - os.getpid())


@probe
def uevents() -> object:
    return socket.socket(16, socket.SOCK_DGRAM, 15).fileno()


@probe
def vsock() -> object:
    return socket.socket(40, socket.SOCK_STREAM).fileno()


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
    for name in sys.argv[3:] or PROBES:
        try:
            seen[name] = (True, repr(PROBES[name]())[:200])
        except OSError as error:
            seen[name] = (False, repr(error)[:200])
    sys.stdout.write(json.dumps(seen))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
