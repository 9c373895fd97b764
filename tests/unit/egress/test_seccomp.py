"""The filter's program, run by a small interpreter of classic BPF: both machines, whatever this one is."""

import pytest

from perstack_egress import seccomp
from perstack_egress.syscalls import ALLOWED, FATAL, MACHINES, RULED, number

ALLOW, KILL = 0x7FFF0000, 0x80000000
ENOSYS, EACCES, NO_FAMILY = 0x00050000 | 38, 0x00050000 | 13, 0x00050000 | 97
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
machines = pytest.mark.parametrize("machine", list(MACHINES))


def verdict(machine: str, call: int, *arguments: int, arch: int | None = None) -> int:
    """What the kernel would do with a call."""
    words = {0: call, 4: ARCH[machine] if arch is None else arch}
    for place in range(6):
        value = arguments[place] if place < len(arguments) else 0
        words[16 + 8 * place], words[20 + 8 * place] = value & 0xFFFFFFFF, value >> 32
    at, accumulator = 0, 0
    program = seccomp.program(machine)
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        match code:
            case 0x20:
                accumulator = words[value]
            case 0x54:
                accumulator &= value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x45:
                at += if_true if accumulator & value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case 0x06:
                return value
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


def call(name: str, machine: str) -> int:
    table = next(each for each in (ALLOWED, RULED, FATAL) if name in each)
    found = number(table, name, machine)
    assert found is not None
    return found


@machines
def test_every_call_of_the_tables_has_its_own_verdict(machine: str) -> None:
    for table, expected in ((ALLOWED, ALLOW), (FATAL, KILL)):
        for name in table:
            known = number(table, name, machine)
            assert known is None or verdict(machine, known) == expected, name


@machines
def test_a_call_that_no_table_has_does_not_exist(machine: str) -> None:
    tables = (ALLOWED, RULED, FATAL)
    known = {number(table, name, machine) for table in tables for name in table}
    unknown = set(range(480)) - known
    assert {verdict(machine, each) for each in unknown} == {ENOSYS}
    assert 425 in unknown, "io_uring_setup must not be there: the C library of the loop asks for it and goes without"
    assert 435 in unknown, "clone3 must not be there: its flags stand behind a pointer"


@machines
def test_calls_of_another_architecture_end_the_process(machine: str) -> None:
    others = [arch for name, arch in ARCH.items() if name != machine] + [0x40000003, 0]
    assert {verdict(machine, call("read", machine), arch=arch) for arch in others} == {KILL}


def test_the_x32_calls_end_the_process() -> None:
    assert verdict("x86_64", 0x40000000 | 1) == KILL


@machines
def test_the_program_fits_into_the_kernel(machine: str) -> None:
    program = seccomp.program(machine)
    assert len(program) < 4096
    assert all(0 <= jump < 256 for each in program for jump in (each.if_true, each.if_false))


@machines
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("openat", (0, 0, 0o2000000), ALLOW),
        ("openat", (0, 0, 0o1), EACCES),
        ("openat", (0, 0, 0o2), EACCES),
        ("openat", (0, 0, 0o100), EACCES),
        ("openat", (0, 0, 0o20200000), EACCES),
        ("mmap", (0, 4096, 3), ALLOW),
        ("mmap", (0, 4096, 5), EACCES),
        ("mprotect", (0, 4096, 1), ALLOW),
        ("mprotect", (0, 4096, 7), EACCES),
        ("clone", (0x3D0F00,), ALLOW),
        ("clone", (17,), KILL),
        ("clone", (0x10000000 | 17,), KILL),
        ("socket", (2, 1), ALLOW),
        ("socket", (10, 2 | 0o2004000), ALLOW),
        ("socket", (2, 3), EACCES),
        ("socket", (16, 3, 0), ALLOW),
        ("socket", (16, 3, 9), NO_FAMILY),
        ("socket", (1, 1), NO_FAMILY),
        ("socket", (17, 3), NO_FAMILY),
        ("socket", (40, 1), NO_FAMILY),
        ("socketpair", (1, 1), ALLOW),
        ("socketpair", (2, 1), NO_FAMILY),
        ("prctl", (15,), ALLOW),
        ("prctl", (4, 1), EACCES),
        ("ioctl", (0, 0x5421), ALLOW),
        ("ioctl", (0, 0x5412), EACCES),
        ("prlimit64", (0, 7), ALLOW),
        ("prlimit64", (1, 7), EACCES),
    ],
)
def test_arguments_decide(machine: str, name: str, arguments: tuple[int, ...], expected: int) -> None:
    assert verdict(machine, call(name, machine), *arguments) == expected


@machines
def test_only_the_word_that_the_kernel_reads_counts(machine: str) -> None:
    assert verdict(machine, call("socket", machine), (1 << 32) | 2, 1) == ALLOW
    assert verdict(machine, call("socket", machine), (2 << 32) | 1, 1) == NO_FAMILY
