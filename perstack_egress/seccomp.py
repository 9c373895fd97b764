"""The proxy's own system call filter: an allow-list that the process installs for itself, and nothing takes off.

`program` is PURE and makes the classic BPF instructions (seccomp(2), linux/filter.h, linux/seccomp.h); `install` hands
them to the kernel. What is not listed does not exist (ENOSYS, to which the C library has an answer); what only an
intruder would call ends the process, and the daemon starts another.
"""

import ctypes
import os
import platform
from collections.abc import Iterator
from typing import Final, NamedTuple

from perstack_egress.syscalls import ALLOWED, FATAL, MACHINES, RULED, Numbers, number

_ENOSYS: Final = 38
_EAFNOSUPPORT: Final = 97
_EACCES: Final = 13
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000

_AUDIT_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER: Final = 1
_ALL_THREADS: Final = 1  # SECCOMP_FILTER_FLAG_TSYNC
_X32: Final = 0x40000000

# Instruction codes: load a word of seccomp_data, jump on equal, on any bit set, on greater or equal, mask, return.
_LOAD, _EQUAL, _ANY, _AT_LEAST, _MASK, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x54, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16

_PROT_EXEC: Final = 4
_CLONE_THREAD: Final = 0x10000
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_TYPE_BITS: Final = 0xF  # of socket's second argument; the rest are SOCK_NONBLOCK and SOCK_CLOEXEC
_STREAM, _DATAGRAM = 1, 2
_WRITING: Final = 0o3 | 0o100 | 0o1000 | 0o2000 | 0o20000000  # O_ACCMODE, O_CREAT, O_TRUNC, O_APPEND, __O_TMPFILE
_FIONBIO, _FIONREAD, _FIOCLEX, _FIONCLEX = 0x5421, 0x541B, 0x5451, 0x5450
_PR_SET_NAME: Final = 15


class Instruction(NamedTuple):
    """One struct sock_filter."""

    code: int
    if_true: int
    if_false: int
    value: int


def supported() -> bool:
    """Whether the numbers of this machine's system calls are known here."""
    return platform.machine() in MACHINES and ctypes.sizeof(ctypes.c_void_p) == 8


def program(machine: str) -> tuple[Instruction, ...]:
    """The filter for `x86_64` or `aarch64`. Each call's block ends with a verdict or leaves the number where it was."""
    return tuple(
        (
            *_load(_ARCH_AT),
            Instruction(_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
            *_verdict(_KILL),
            *_load(_NUMBER_AT),
            *((Instruction(_AT_LEAST, 0, 1, _X32), *_verdict(_KILL)) if machine == "x86_64" else ()),
            *_each(ALLOWED, machine, _ALLOW),
            *_ruled(machine),
            *_each(FATAL, machine, _KILL),
            *_verdict(_ERRNO | _ENOSYS),
        )
    )


def install() -> None:
    """For every thread of this process and all that they start. Irrevocable; no-new-privileges must be set.

    Raises:
        OSError: the kernel has no seccomp filters, or this machine's call numbers are not known.
    """
    machine = platform.machine()
    if not supported():
        raise OSError(_ENOSYS, f"there is no system call filter for {machine}; known are {', '.join(MACHINES)}")
    instructions = program(machine)
    array = (_SockFilter * len(instructions))(*(_SockFilter(*each) for each in instructions))
    filter_program = _SockProgram(len(instructions), array)
    library = ctypes.CDLL(None, use_errno=True)
    call, mode, flags = (ctypes.c_long(each) for each in (_SECCOMP[machine], _SET_MODE_FILTER, _ALL_THREADS))
    if library.syscall(call, mode, flags, ctypes.byref(filter_program)) != 0:
        code = ctypes.get_errno()
        raise OSError(
            code, f"seccomp: {os.strerror(code) if code else 'a thread could not be brought under the filter'}"
        )


class _SockFilter(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _SockProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_SockFilter)))


def _ruled(machine: str) -> Iterator[Instruction]:
    """Calls whose arguments decide. Pointers cannot be followed, so only what stands in registers can be asked for."""
    denied = _ERRNO | _EACCES
    rules = {
        "openat": (*_argument(2), *_none_of(_WRITING, denied)),
        "open": (*_argument(1), *_none_of(_WRITING, denied)),
        # Writable memory never becomes code. Libraries were loaded before.
        "mmap": (*_argument(2), *_none_of(_PROT_EXEC, denied)),
        "mprotect": (*_argument(2), *_none_of(_PROT_EXEC, denied)),
        "pkey_mprotect": (*_argument(2), *_none_of(_PROT_EXEC, denied)),
        "clone": (*_argument(0), Instruction(_ANY, 1, 0, _CLONE_THREAD), *_verdict(_KILL), *_verdict(_ALLOW)),
        "socket": tuple(_socket()),
        "socketpair": (*_argument(0), *_one_of((_AF_UNIX,), _ERRNO | _EAFNOSUPPORT)),
        "prctl": (*_argument(0), *_one_of((_PR_SET_NAME,), denied)),
        "ioctl": (*_argument(1), *_one_of((_FIONBIO, _FIONREAD, _FIOCLEX, _FIONCLEX), denied)),
        "prlimit64": (*_argument(0), *_one_of((0,), denied)),  # its own limits, never another's
    }
    for name, block in rules.items():
        known = number(RULED, name, machine)
        if known is not None:
            yield Instruction(_EQUAL, 0, len(block), known)
            yield from block


def _socket() -> Iterator[Instruction]:
    """TCP and UDP over IP, and the netlink protocol 0 that getaddrinfo asks for the machine's addresses.

    No Unix sockets: what listens on them on this host (an engine, a bus) is none of the proxy's business.
    """
    netlink = (*_argument(2), *_one_of((0,), _ERRNO | _EAFNOSUPPORT))
    internet = (*_argument(1), Instruction(_MASK, 0, 0, _TYPE_BITS), *_one_of((_STREAM, _DATAGRAM), _ERRNO | _EACCES))
    yield from _argument(0)
    yield Instruction(_EQUAL, 0, len(netlink), _AF_NETLINK)
    yield from netlink
    yield Instruction(_EQUAL, 2, 0, _AF_INET)
    yield Instruction(_EQUAL, 1, 0, _AF_INET6)
    yield from _verdict(_ERRNO | _EAFNOSUPPORT)
    yield from internet


def _each(table: Numbers, machine: str, verdict: int) -> Iterator[Instruction]:
    for name in table:
        known = number(table, name, machine)
        if known is not None:
            yield Instruction(_EQUAL, 0, 1, known)
            yield from _verdict(verdict)


def _load(offset: int) -> tuple[Instruction, ...]:
    return (Instruction(_LOAD, 0, 0, offset),)


def _argument(position: int) -> tuple[Instruction, ...]:
    """The low word of an argument: all of it for the ints that are asked for here (both machines are little-endian)."""
    return _load(_ARGUMENTS_AT + 8 * position)


def _none_of(bits: int, otherwise: int) -> tuple[Instruction, ...]:
    return (Instruction(_ANY, 0, 1, bits), *_verdict(otherwise), *_verdict(_ALLOW))


def _one_of(values: tuple[int, ...], otherwise: int) -> tuple[Instruction, ...]:
    left = len(values)
    tests = tuple(Instruction(_EQUAL, left - place, 0, value) for place, value in enumerate(values))
    return (*tests, *_verdict(otherwise), *_verdict(_ALLOW))


def _verdict(action: int) -> tuple[Instruction, ...]:
    return (Instruction(_RETURN, 0, 0, action),)
