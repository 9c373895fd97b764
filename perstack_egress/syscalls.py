"""Numbers of the system calls that the filter speaks of: (x86_64, aarch64), None where the machine has no such call.

From the kernel's asm/unistd_64.h and asm-generic/unistd.h, whose numbers never change.
"""

from typing import Final, TypeAlias

Numbers: TypeAlias = dict[str, tuple[int | None, int | None]]
MACHINES: Final = {"x86_64": 0, "aarch64": 1}

# fmt: off
ALLOWED: Final[Numbers] = {
    "epoll_pwait": (281, 22), "epoll_wait": (232, None), "recvfrom": (45, 207), "recvmsg": (47, 212),
    "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269), "recvmmsg": (299, 243), "futex": (202, 98),
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "close": (3, 57), "accept": (43, 202),
    "accept4": (288, 242), "connect": (42, 203), "shutdown": (48, 210), "getsockopt": (55, 209),
    "setsockopt": (54, 208), "getsockname": (51, 204), "getpeername": (52, 205), "bind": (49, 200),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_pwait2": (441, 441), "eventfd2": (290, 19),
    "pipe2": (293, 59), "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    "timerfd_create": (283, 85), "timerfd_settime": (286, 86), "munmap": (11, 215), "mremap": (25, 216),
    "madvise": (28, 233), "brk": (12, 214), "membarrier": (324, 283), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "set_robust_list": (273, 99), "get_robust_list": (274, 100),
    "set_tid_address": (218, 96), "rseq": (334, 293), "gettid": (186, 178), "getpid": (39, 172),
    "getppid": (110, 173), "exit": (60, 93), "exit_group": (231, 94), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "restart_syscall": (219, 128),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, None), "getrandom": (318, 278), "uname": (63, 160), "sysinfo": (99, 179),
    "getrusage": (98, 165), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177),
    "getresuid": (118, 148), "getresgid": (120, 150), "getcwd": (79, 17), "fstat": (5, 80), "newfstatat": (262, 79),
    "statx": (332, 291), "stat": (4, None), "lstat": (6, None), "lseek": (8, 62), "pread64": (17, 67),
    "getdents64": (217, 61), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "dup": (32, 23), "dup3": (292, 24), "fcntl": (72, 25),
    "close_range": (436, 436),
}
"""Whatever their arguments; the busiest first."""

RULED: Final[Numbers] = {
    "openat": (257, 56), "open": (2, None), "socket": (41, 198), "socketpair": (53, 199), "mmap": (9, 222),
    "mprotect": (10, 226), "pkey_mprotect": (329, 288), "clone": (56, 220), "prctl": (157, 167), "ioctl": (16, 29),
    "prlimit64": (302, 261),
}
"""Allowed with certain arguments only, see `seccomp`."""

FATAL: Final[Numbers] = {
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "unshare": (272, 97), "setns": (308, 268),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "move_mount": (429, 429),
    "open_tree": (428, 428), "fsopen": (430, 430), "bpf": (321, 280), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104), "userfaultfd": (323, 282),
    "perf_event_open": (298, 241), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
}
"""Nothing that the proxy does leads to these: who calls them is not the proxy any more."""
# fmt: on


def number(table: Numbers, name: str, machine: str) -> int | None:
    """The call's number on a machine of MACHINES."""
    return table[name][MACHINES[machine]]
