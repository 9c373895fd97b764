"""The limits that a cgroup has, compared with those that a template asks for: the same for every runtime. Pure."""

from collections.abc import Iterator
from math import ceil, isclose, log2
from typing import Final

from perstackd.adapters.docker.kernel import CgroupLimits
from perstackd.domain.sandbox import PostureCheck, Template

_PAGE: Final = 4096


def same(name: str, expected: object, actual: object, cis: str = "", source: str = "kernel") -> PostureCheck:
    """A check that passes when both are equal."""
    return PostureCheck(name, text(expected), text(actual), ok=expected == actual, cis=cis, source=source)


def text(value: object) -> str:
    """A value as a posture shows it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case str():
            return value or "default"
        case list() | tuple() | dict() | None if not value:
            return "none"
        case list() | tuple():
            return ", ".join(str(item) for item in value)
        case _:
            return str(value)


def cgroup_checks(template: Template, limits: CgroupLimits) -> Iterator[PostureCheck]:
    """Memory, swap, processes and CPU."""
    memory = template.memory // _PAGE * _PAGE
    yield same("memory", memory, limits.memory, "5.10")
    yield same("memory_and_swap", memory, limits.memory_and_swap, "5.10")
    yield same("pids", template.pids, limits.pids, "5.28")
    cpus = (
        template.cpus if limits.cpus is not None and isclose(limits.cpus, template.cpus, abs_tol=1e-4) else limits.cpus
    )
    yield same("cpus", template.cpus, cpus, "5.11")
    allowed = {template.cpu_shares} if limits.version == 1 else weights(template.cpu_shares)
    expected = " or ".join(str(share) for share in sorted(allowed))
    yield PostureCheck(
        "cpu_shares", expected, text(limits.share), ok=limits.share in allowed, cis="5.11", source="kernel"
    )


def weights(shares: int) -> set[int]:
    """The cpu.weight values that runtimes make of cpu.shares: linear until runc 1.3.1 and crun 1.22, then quadratic."""
    bounded = min(max(shares, 2), 262_144)
    exponent = log2(bounded)
    return {1 + (bounded - 2) * 9999 // 262_142, ceil(10 ** ((exponent**2 + 125 * exponent) / 612 - 7 / 34))}
