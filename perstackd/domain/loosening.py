"""What a template may leave out of the hardening, by name, and what it costs. Nothing else can be left out.

None of them adds a capability, opens a namespace of the host or lets the engine's socket in.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from perstackd.domain.sandbox import Template


class Loosening(StrEnum):
    """The names that `exceptions` of a template takes."""

    WRITABLE_ROOT = "writable-root"
    PTRACE = "ptrace"


@dataclass(frozen=True, slots=True)
class Loosened:
    """`checks` are those of the posture that expect something else by it; `cost` ends a sentence about the template."""

    checks: tuple[str, ...]
    cost: str


LOOSENED: Final[dict[Loosening, Loosened]] = {
    Loosening.WRITABLE_ROOT: Loosened(
        ("root", "read_only_root"),
        "the root file system can be written where the image lets anyone write, without a cap: a job may fill the "
        "engine's disk",
    ),
    Loosening.PTRACE: Loosened(
        ("seccomp_profile",),
        "the filter lets ptrace pass: where the kernel has no Landlock, programs of one sandbox can read each other's "
        "memory and secrets",
    ),
}


def has(template: Template, loosening: Loosening) -> bool:
    """Whether the template is loosened so."""
    return loosening in template.exceptions


def costs(template: Template) -> tuple[tuple[str, str], ...]:
    """Names and costs of its exceptions, in their order."""
    return tuple((name, LOOSENED[Loosening(name)].cost) for name in template.exceptions)
