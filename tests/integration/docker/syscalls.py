"""Runs inside a container, under plain Python: tries system calls and prints what each answered, as JSON.

"ok", the name of the error, or "SIGSYS" when the call killed the child that made it.
"""

import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import socket
import stat
import sys
from collections.abc import Callable
from functools import partial

LIBC = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == "aarch64"
BEST_EFFORT = 2 << 13 | 4  # ioprio_set(2): the class and level that a process has
SETUID, SETGID, STICKY = 0o4000, 0o2000, 0o1000
# push rbx; mov eax, 14; xor ebx, ebx; mov ecx, S_IFCHR | 0o600; xor edx, edx; int 0x80; pop rbx; ret: at no address
OLD_MKNOD = b"\x53\xb8\x0e\x00\x00\x00\x31\xdb\xb9\x80\x21\x00\x00\x31\xd2\xcd\x80\x5b\xc3"
# The same with 297, and each argument one further: a directory, the address, the mode, the device.
OLD_MKNODAT = b"\x53\xb8\x29\x01\x00\x00\x31\xdb\x31\xc9\xba\x80\x21\x00\x00\x31\xf6\xcd\x80\x5b\xc3"


def number(x86: int, arm: int) -> int:
    return arm if ARM else x86


def call(nr: int, *arguments: object) -> str:
    ctypes.set_errno(0)
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = LIBC.syscall(ctypes.c_long(nr), *words)
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]


def attempt(work: Callable[..., object], *arguments: object) -> str:
    try:
        work(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def in_child(work: Callable[[], str]) -> str:
    """What happens to a child that does it: some answers are a signal, some change the caller for good."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, work().encode())
        finally:
            os._exit(0)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    answer = os.read(read, 100).decode()
    os.close(read)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else answer


def open_socket(family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> str:
    return attempt(lambda: socket.socket(family, kind, protocol).close())


def clone(flags: int) -> str:
    """A raw clone(2): the child ends at once."""
    ctypes.set_errno(0)
    pid = LIBC.syscall(number(56, 220), ctypes.c_long(flags | signal.SIGCHLD), 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    if pid < 0:
        return errno.errorcode[ctypes.get_errno()]
    os.waitpid(pid, 0)
    return "ok"


def machine_code(code: bytes) -> str:
    """Run bytes of machine code: the only way to make a 32-bit system call from here."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return f"returned {function()}"


def modes(directory: str) -> dict[str, str]:
    found = {}
    plain = f"{directory}/plain"
    os.close(os.open(plain, os.O_CREAT | os.O_WRONLY, 0o600))
    descriptor = os.open(plain, os.O_RDONLY)
    for name, bits in (("setuid", SETUID), ("setgid", SETGID), ("sticky", STICKY), ("none", 0)):
        mode, new = 0o700 | bits, f"{directory}/{name}"
        found[f"fchmod {name}"] = attempt(os.fchmod, descriptor, mode)
        found[f"fchmodat {name}"] = call(number(268, 53), -100, plain.encode(), mode)
        found[f"openat {name}"] = call(number(257, 56), -100, f"{new}-o".encode(), os.O_CREAT | os.O_WRONLY, mode)
        found[f"openat tmpfile {name}"] = call(
            number(257, 56), -100, directory.encode(), os.O_TMPFILE | os.O_WRONLY, mode
        )
        found[f"mkdirat {name}"] = call(number(258, 34), -100, f"{new}-d".encode(), mode)
        found[f"mknodat {name}"] = call(number(259, 33), -100, f"{new}-n".encode(), 0o100000 | mode, 0)
        if not ARM:
            found[f"chmod {name}"] = call(90, plain.encode(), mode)
            found[f"open {name}"] = call(2, f"{new}-p".encode(), os.O_CREAT | os.O_WRONLY, mode)
            found[f"creat {name}"] = call(85, f"{new}-c".encode(), mode)
            found[f"mkdir {name}"] = call(83, f"{new}-e".encode(), mode)
            found[f"mknod {name}"] = call(133, f"{new}-m".encode(), 0o100000 | mode, 0)
    return found


def nodes(directory: str) -> dict[str, str]:
    """mknod of each kind, with what the kernel takes as well: bits that it does not look at, numbers of devices."""
    found = {}
    for kind, bits, device in (
        *(("nothing", 0, 0), ("file", stat.S_IFREG, 0), ("fifo", stat.S_IFIFO, 0), ("socket", stat.S_IFSOCK, 0)),
        *(("fifo setuid", stat.S_IFIFO | SETUID, 0), ("socket setgid", stat.S_IFSOCK | SETGID, 0)),
        *(("whiteout", stat.S_IFCHR, 0), ("whiteout and high bits", 1 << 32 | 1 << 16 | stat.S_IFCHR, 0)),
        *(("character device", stat.S_IFCHR, os.makedev(1, 3)), ("block device", stat.S_IFBLK, os.makedev(7, 0))),
        *(("block device 0", stat.S_IFBLK, 0), ("fifo and high bits", 1 << 32 | 1 << 16 | stat.S_IFIFO, 0)),
    ):
        path = f"{directory}/node {kind}"
        found[f"mknodat {kind}"] = call(number(259, 33), -100, f"{path}-a".encode(), bits | 0o600, device)
        if not ARM:
            found[f"mknod {kind}"] = call(133, f"{path}-b".encode(), bits | 0o600, device)
    return found


def renames(directory: str) -> dict[str, str]:
    """renameat2 with each of its flags."""
    found = {}
    for name, flags in (("plain", 0), ("no replacing", 1), ("exchange", 2), ("whiteout", 4), ("whiteout only", 5)):
        old, new = f"{directory}/old {name}", f"{directory}/new {name}"
        for path in (old, new)[: 2 if flags == 2 else 1]:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        found[f"renameat2 {name}"] = call(number(316, 276), -100, old.encode(), -100, new.encode(), flags)
    return found


def scheduling(whose: str, pid: int) -> dict[str, str]:
    """What sets how a process is scheduled, each with what holds already: SCHED_OTHER, priority 0, nice 0."""
    parameter = ctypes.create_string_buffer(4)
    attributes = (ctypes.c_uint32 * 12)(48)  # sched_attr(2): its size, then zeros: SCHED_OTHER, nice 0
    processors = ctypes.create_string_buffer(b"\xff" * 128, 128)
    return {
        f"sched_setscheduler {whose}": call(number(144, 119), pid, 0, parameter),
        f"sched_setparam {whose}": call(number(142, 118), pid, parameter),
        f"sched_setattr {whose}": call(number(314, 274), pid, attributes, 0),
        f"sched_setaffinity {whose}": call(number(203, 122), pid, 128, processors),
        f"setpriority {whose}": call(number(141, 140), 0, pid, 0),
        f"ioprio_set {whose}": call(number(251, 30), 1, pid, BEST_EFFORT),
    }


def main(directory: str) -> None:
    own = os.getpid()
    found = modes(directory) | nodes(directory) | renames(directory)
    found |= {
        "clone3": call(435, 0, 0),
        "io_uring_setup": call(425, 1, 0),
        "io_uring_enter": call(426, -1, 0, 0, 0, 0, 0),
        "io_uring_register": call(427, -1, 0, 0, 0),
        "openat2": call(437, -100, b"/", 0, 0),
        "fchmodat2": call(452, -100, b"/nowhere", 0o700, 0),
        "ptrace": in_child(lambda: call(number(101, 117), 0, 0, 0, 0)),
        "process_vm_readv": call(number(310, 270), own, 0, 0, 0, 0, 0),
        "process_vm_writev": call(number(311, 271), own, 0, 0, 0, 0, 0),
        "pidfd_getfd": call(438, -1, 0, 0),
        "kcmp": call(number(312, 272), own, own, 0, 0, 0),
        "vmsplice": call(number(278, 75), -1, 0, 0, 0),
        "memfd_secret": call(447, 0),
        "remap_file_pages": call(number(216, 234), 0, 0, 0, 0, 0),
        "unshare user": in_child(lambda: call(number(272, 97), 0x10000000)),
        "unshare network": in_child(lambda: call(number(272, 97), 0x40000000)),
        "setns": call(number(308, 268), -1, 0),
        "mount": call(number(165, 40), b"none", b"/tmp", b"tmpfs", 0, 0),
        "bpf": call(number(321, 280), 0, 0, 0),
        "perf_event_open": call(number(298, 241), 0, 0, -1, -1, 0),
        "userfaultfd": call(number(323, 282), 0),
        "keyctl": call(number(250, 219), 0, -3, 0),
        "add_key": call(number(248, 217), b"user", b"x", b"y", 1, -3),
        "open_by_handle_at": call(number(304, 265), -1, 0, 0),
        "personality no randomisation": call(number(135, 92), 0x0040000),
        "personality question": call(number(135, 92), 0xFFFFFFFF),
        "prlimit64 own": call(number(302, 261), 0, 7, 0, 0),
        "prlimit64 other": call(number(302, 261), own, 7, 0, 0),
        **scheduling("own", 0),
        **scheduling("other", own),
        "setpriority group": call(number(141, 140), 1, 0, 0),
        "setpriority user": call(number(141, 140), 2, 0, 0),
        "ioprio_set group": call(number(251, 30), 2, 0, BEST_EFFORT),
        "clone plain": clone(0),
        "landlock": call(444, 0, 0, 1),
        "pidfd_open": call(434, own, 0),
        "memfd_create": call(number(319, 279), b"x", 0),
        "membarrier": call(number(324, 283), 0, 0, 0),
        "pkey_alloc": call(number(330, 289), 0, 0),
        "close_range": call(436, 900, 901, 0),
        "statx": call(number(332, 291), -100, b"/", 0, 0, ctypes.create_string_buffer(256)),
        "socket unix": open_socket(socket.AF_UNIX),
        "socket inet": open_socket(socket.AF_INET),
        "socket inet6": open_socket(socket.AF_INET6),
        "socket netlink route": open_socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
        "socket netlink uevent": open_socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15),
        "socket packet": open_socket(socket.AF_PACKET, socket.SOCK_RAW),
        "socket vsock": open_socket(40),
        "socket alg": open_socket(38, socket.SOCK_SEQPACKET),
        "socket bluetooth": open_socket(31, socket.SOCK_RAW),
        "socketpair unix": attempt(socket.socketpair),
        "socketpair tipc": attempt(lambda: socket.socketpair(30, socket.SOCK_STREAM)),
    }
    for name, flag in (("NS", 0x20000), ("CGROUP", 0x2000000), ("UTS", 0x4000000), ("IPC", 0x8000000)):
        found[f"clone {name}"] = in_child(partial(clone, flag))
    for name, flag in (("USER", 0x10000000), ("PID", 0x20000000), ("NET", 0x40000000)):
        found[f"clone {name}"] = in_child(partial(clone, flag))
    if not ARM:
        found["modify_ldt"] = call(154, 0, 0, 0)
        whiteout = f"{directory}/of another ABI".encode()
        found["x32 getpid"] = in_child(lambda: call(0x40000000 | 39))
        found["x32 mknod"] = in_child(lambda: call(0x40000000 | 133, whiteout, stat.S_IFCHR | 0o600, 0))
        found["x32 mknodat"] = in_child(lambda: call(0x40000000 | 259, -100, whiteout, stat.S_IFCHR | 0o600, 0))
        # mov eax, 20 (getpid in the 32-bit table); int 0x80; ret
        found["32-bit getpid"] = in_child(lambda: machine_code(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"))
        found["32-bit mknod"] = in_child(lambda: machine_code(OLD_MKNOD))
        found["32-bit mknodat"] = in_child(lambda: machine_code(OLD_MKNODAT))
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
