"""The posture of a gVisor sandbox, seen from the host. Pure.

Two things are confined. Programs inside are confined by gVisor's kernel, the sentry: what it makes of capabilities, the
filter and mounts is told by the runner (`domain.guest_view`). The sentry, its gofer and its stubs are what the host's
kernel sees, and what a flaw of gVisor would leave an attacker with: these checks are about them.
"""

from collections.abc import Iterator
from typing import Final

from perstackd.adapters.docker.posture_cgroup import cgroup_checks, same
from perstackd.adapters.docker.sentry import SentryView
from perstackd.domain.sandbox import PostureCheck, Template

# Of the sentry and the gofer in their own user namespace: chown, dac_override, dac_read_search, fowner, fsetid,
# sys_chroot, sys_ptrace (gVisor: runsc/sandbox/sandbox.go, runsc/cmd/gofer.go).
_CAPABILITIES: Final = 0xC001F
_SECCOMP_FILTER: Final = 2
OPTIONS: Final = {"--oci-seccomp": "true", "--host-uds": "open"}
_WEAKENING: Final = ("--network=host", "--overlay2=all:", "--directfs-unsafe", "--TESTONLY")


def sentry_checks(template: Template, view: SentryView) -> Iterator[PostureCheck]:
    """In a fixed order."""
    yield same("sentry options", tuple(f"{name}={value}" for name, value in OPTIONS.items()), _options(view))
    weakening = tuple(word for word in view.arguments if word.startswith(_WEAKENING))
    yield same("sentry weakening options", (), weakening)
    yield from _processes(view)
    yield same("sentry root", ("/ ro",), tuple(f"{mount.target} {_access(mount.options)}" for mount in view.mounts))
    slot = next((mount for mount in view.gofer_mounts if mount.target == "/mnt"), None)
    slave = slot is not None and any(word.startswith("master:") for word in slot.propagation)
    yield same("slot_propagation", "slave", "slave" if slave else "private or not mounted", "5.19")
    shared = tuple(
        mount.target for mount in view.gofer_mounts if any(w.startswith("shared:") for w in mount.propagation)
    )
    yield same("shared_mounts", (), shared, "5.19")
    for name, own in view.namespaces.items():
        actual = "the host's" if own == view.host_namespaces.get(name) else "its own"
        yield same(f"{name}_namespace", "its own", actual)
    yield same("other_interfaces", (), tuple(sorted({*view.interfaces} - {"lo"})), "5.29")
    yield from cgroup_checks(template, view.cgroup)


def _options(view: SentryView) -> tuple[str, ...]:
    """As the sentry was started; gVisor writes a flag as NAME=VALUE for its children."""
    given = dict(word.split("=", 1) for word in view.arguments if word.startswith("--") and "=" in word)
    return tuple(f"{name}={given[name]}" for name in OPTIONS if name in given)


def _processes(view: SentryView) -> Iterator[PostureCheck]:
    held, privileged, unfiltered = [], [], []
    for process in view.processes:
        who = f"pid {process.pid} {process.name}"
        held += [f"{name}={bits:x} of {who}" for name, bits in process.capabilities.items() if bits & ~_CAPABILITIES]
        privileged += [] if process.no_new_privileges else [who]
        unfiltered += [] if process.seccomp == _SECCOMP_FILTER else [f"mode {process.seccomp} of {who}"]
    yield same("sentry capabilities", (), tuple(held), "5.3")
    yield same("may_gain_privileges", (), tuple(privileged), "5.25")
    yield same("without_seccomp_filter", (), tuple(unfiltered), "5.21")


def _access(options: frozenset[str]) -> str:
    return "ro" if "ro" in options else "rw"
