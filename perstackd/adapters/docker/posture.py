"""Compares what a sandbox is with what its template asked for. Pure.

Trust the kernel, not the request: engines drop hardening fields without a word. Each check names the number that it
has in section 5 of the CIS Docker Benchmark 1.6.0, where it has one. Left out are the recommendations about people's
conduct (5.22, 5.23: `docker exec`, which the daemon never uses) and 5.26, which the runner's link answers.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final, assert_never

from perstackd.adapters.docker.hardening import (
    CA_BUNDLE,
    MASKED,
    READ_ONLY,
    Tmpfs,
    binds_of,
    environment_of,
    tmpfs_of,
    ulimits_of,
)
from perstackd.adapters.docker.kernel import KernelView, MountView
from perstackd.adapters.docker.posture_cgroup import cgroup_checks, same
from perstackd.adapters.docker.posture_runsc import sentry_checks
from perstackd.adapters.docker.sentry import SentryView
from perstackd.domain.ids import SandboxId
from perstackd.domain.loosening import LOOSENED, Loosening, has
from perstackd.domain.sandbox import Posture, PostureCheck, SandboxRecord, Template
from perstackd.ports.sandboxes import SandboxDirectories

Inspected = Mapping[str, Any]

_RULES: Final = frozenset({"runc", "runsc"})
_SECCOMP_FILTER: Final = 2

# Made in every network namespace by some kernels' tunnel modules; down, and nobody inside can raise them.
_FALLBACK_TUNNELS: Final = frozenset(
    {"tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"}
)
_DEVICES: Final = frozenset({"full", "null", "ptmx", "random", "tty", "urandom", "zero"})
_ENGINE_SOCKETS: Final = ("docker.sock", "containerd.sock", "podman.sock", "crio.sock")
_SYSTEM_MOUNTS: Final = frozenset(
    {"/", "/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/sys", "/sys/fs/cgroup"}  # noqa: S108  inside
    | {"/etc/resolv.conf", "/etc/hostname", "/etc/hosts"}
)
_LIMIT_NAMES: Final = {"nofile": "Max open files", "core": "Max core file size", "fsize": "Max file size"}
_NAMESPACE_CIS: Final = {"net": "5.9", "pid": "5.15", "ipc": "5.16", "uts": "5.20"}

# Name of the check, key of the engine's HostConfig, what it must be, CIS number.
_HOST_CONFIG: Final[tuple[tuple[str, str, Any, str], ...]] = (
    ("privileged", "Privileged", False, "5.4"),
    ("added_capabilities", "CapAdd", [], "5.3"),
    ("dropped_capabilities", "CapDrop", ["ALL"], "5.3"),
    ("devices", "Devices", [], "5.17"),
    ("device_requests", "DeviceRequests", [], "5.17"),
    ("device_rules", "DeviceCgroupRules", [], "5.17"),
    ("binds", "Binds", [], "5.5"),
    ("volumes_from", "VolumesFrom", [], "5.5"),
    ("network_mode", "NetworkMode", "none", "5.29"),
    ("ports", "PortBindings", {}, "5.7 5.8 5.13"),
    ("publish_all_ports", "PublishAllPorts", False, "5.8"),
    ("links", "Links", [], ""),
    ("ipc_mode", "IpcMode", "private", "5.16"),
    ("pid_mode", "PidMode", "", "5.15"),
    ("uts_mode", "UTSMode", "", "5.20"),
    ("user_namespace_mode", "UsernsMode", "", "5.30"),
    ("cgroup_namespace_mode", "CgroupnsMode", "private", ""),
    ("cgroup_parent", "CgroupParent", "", "5.24"),
    ("read_only_root", "ReadonlyRootfs", True, "5.12"),
    ("oom_kill_disabled", "OomKillDisable", False, "5.10"),
    ("extra_groups", "GroupAdd", [], ""),
    ("sysctls", "Sysctls", {}, ""),
    ("engine_init", "Init", False, ""),
    ("auto_remove", "AutoRemove", False, ""),
)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the comparison needs beside record and template.

    `directories` is None for a sandbox of an earlier process: then the sources of its mounts are not compared, but for
    that of `ca_bundle`, whose name tells its contents.
    """

    image_id: str
    seccomp: str
    directories: SandboxDirectories | None = None
    ca_bundle: str = ""


def not_running(sandbox_id: SandboxId, actual: str) -> Posture:
    """The posture of what is not there, or cannot be looked at: one failed check."""
    return Posture(sandbox_id, (PostureCheck("running", "running", actual, ok=False, source="engine"),))


def compare(
    record: SandboxRecord, template: Template, expected: Expected, inspected: Inspected, seen: KernelView | SentryView
) -> Posture:
    """All checks, in a fixed order. Those that an exception of the template loosens expect just that, and what they
    expect ends with its name in parentheses. `seen` is a SentryView for the runtime runsc.
    """
    if template.runtime not in _RULES or (template.runtime == "runsc") != isinstance(seen, SentryView):
        return not_running(record.id, f"the runtime {template.runtime} has no posture rules for what is seen of it")
    running = same("running", "running", inspected.get("State", {}).get("Status", ""), source="engine")
    match seen:
        case KernelView():
            outside = _checks(record, template, expected, seen)
        case SentryView():
            outside = sentry_checks(template, seen)
        case _:
            assert_never(seen)
    found = (running, *outside, *_engine(record, template, expected, inspected))
    loosened = {check: name for name in template.exceptions for check in LOOSENED[Loosening(name)].checks}
    found = tuple(
        replace(check, expected=f"{check.expected} (exception {loosened[check.name]})")
        if check.name in loosened
        else check
        for check in found
    )
    return Posture(record.id, found, template.exceptions)


def _checks(
    record: SandboxRecord, template: Template, expected: Expected, kernel: KernelView
) -> Iterator[PostureCheck]:
    yield from _processes(record, kernel)
    yield from _security_modules(kernel)
    yield from _mounts(record, template, expected, kernel)
    yield from _namespaces(kernel)
    yield from cgroup_checks(template, kernel.cgroup)
    yield from _ulimits(template, kernel)


# --- the kernel's side ----------------------------------------------------------------------------------------------
def _processes(record: SandboxRecord, kernel: KernelView) -> Iterator[PostureCheck]:
    held, privileged, unfiltered, strangers, grouped = [], [], [], [], []
    for process in kernel.processes:
        who = f"pid {process.pid} {process.name}"
        held += [f"{name}={bits:x} of {who}" for name, bits in process.capabilities.items() if bits]
        privileged += [] if process.no_new_privileges else [who]
        unfiltered += [] if process.seccomp == _SECCOMP_FILTER else [f"mode {process.seccomp} of {who}"]
        ids = {*process.uids, *process.gids}
        strangers += [] if ids == {record.uid} else [f"{sorted(ids)} of {who}"]
        grouped += [] if {*process.groups} <= {record.uid} else [f"{process.groups} of {who}"]
    yield same("capabilities", (), tuple(held), "5.3")
    yield same("may_gain_privileges", (), tuple(privileged), "5.25")
    yield same("without_seccomp_filter", (), tuple(unfiltered), "5.21")
    yield same("other_uids", (), tuple(strangers))
    yield same("other_groups", (), tuple(grouped))
    yield same("sshd", (), tuple(process.name for process in kernel.processes if "sshd" in process.name), "5.6")


def _security_modules(kernel: KernelView) -> Iterator[PostureCheck]:
    for name, title, wanted, cis in (
        ("apparmor", "AppArmor", "docker-default (enforce)", "5.1"),
        ("selinux", "SELinux", ":container_t:", "5.2"),
    ):
        label = kernel.lsm.get(name)
        if label is None:
            yield PostureCheck(name, f"{wanted} where the host has it", f"host has no {title}", ok=True, cis=cis)
        else:
            yield PostureCheck(name, wanted, label or "unconfined", ok=wanted in label, cis=cis, source="kernel")


def _mounts(
    record: SandboxRecord, template: Template, expected: Expected, kernel: KernelView
) -> Iterator[PostureCheck]:
    at = {mount.target: mount for mount in kernel.mounts}
    yield _flags("root", at.get("/"), {"rw" if has(template, Loosening.WRITABLE_ROOT) else "ro"}, "5.12")
    yield _flags("gateway", at.get("/gw"), {"ro"})
    yield _flags("slot", at.get("/mnt"), {"ro"})
    for name in ("passwd", "group"):
        yield _flags(name, at.get(f"/etc/{name}"), {"ro"})
    if expected.ca_bundle:
        yield _flags("ca_bundle", at.get(CA_BUNDLE), {"ro"})
    yield _flags("sysfs", at.get("/sys"), {"ro", "nosuid", "nodev", "noexec"})
    for tmpfs in tmpfs_of(template):
        yield _tmpfs(tmpfs, record.uid, at.get(tmpfs.path))
    shm = at.get("/dev/shm")  # noqa: S108  a mount point inside
    yield same("shm", (f"size={template.shm_bytes >> 10}k",), _size_options(shm))
    for path in sorted(kernel.host_paths & {*MASKED}):
        yield same(f"masked {path}", "masked", "masked" if _masked(at.get(path)) else "visible")
    for path in sorted(kernel.host_paths & {*READ_ONLY}):
        yield _flags(path, at.get(path), {"ro"})
    yield same("slot_propagation", "slave", _propagation(at.get("/mnt")), "5.19")
    yield same("shared_mounts", (), _targets(kernel, lambda mount: _propagation(mount) == "shared"), "5.19")
    yield same("engine_socket", (), _targets(kernel, _engine_socket), "5.31")
    known = {*_SYSTEM_MOUNTS, *MASKED, *READ_ONLY, "/gw", "/mnt", "/etc/passwd", "/etc/group"}
    known |= {tmpfs.path for tmpfs in tmpfs_of(template)} | ({CA_BUNDLE} if expected.ca_bundle else set())
    yield same("other_mounts", (), _targets(kernel, lambda mount: not _known(mount, known)), "5.5")
    yield same("other_devices", (), tuple(name for name in kernel.devices if name not in _DEVICES), "5.17")


def _flags(name: str, mount: MountView | None, wanted: set[str], cis: str = "") -> PostureCheck:
    expected = " ".join(sorted(wanted))
    if mount is None:
        return PostureCheck(name, expected, "not mounted", ok=False, cis=cis, source="kernel")
    actual = " ".join(sorted(mount.options - {"relatime"}))
    return PostureCheck(name, expected, actual, ok=wanted <= mount.options, cis=cis, source="kernel")


def _tmpfs(tmpfs: Tmpfs, uid: int, mount: MountView | None) -> PostureCheck:
    wanted = {"tmpfs", "rw", "nosuid", "nodev", f"size={tmpfs.bytes >> 10}k", f"nr_inodes={tmpfs.inodes}"}
    wanted |= {f"uid={uid}", f"gid={uid}"} | (set() if tmpfs.executable else {"noexec"})
    found = set() if mount is None else {mount.kind, *mount.options, *mount.super_options}
    expected, actual = " ".join(sorted(wanted)), " ".join(sorted(found)) or "not mounted"
    return PostureCheck(f"tmpfs {tmpfs.path}", expected, actual, ok=wanted <= found, source="kernel")


def _size_options(mount: MountView | None) -> tuple[str, ...]:
    return tuple(sorted(option for option in mount.super_options if option.startswith("size="))) if mount else ()


def _masked(mount: MountView | None) -> bool:
    # A file is covered by the null device, a directory by an empty read-only tmpfs.
    return mount is not None and (mount.root == "/null" or (mount.kind == "tmpfs" and "ro" in mount.options))


def _propagation(mount: MountView | None) -> str:
    if mount is None:
        return "not mounted"
    if any(word.startswith("shared:") for word in mount.propagation):
        return "shared"
    return "slave" if any(word.startswith("master:") for word in mount.propagation) else "private"


def _engine_socket(mount: MountView) -> bool:
    return any(path.endswith(_ENGINE_SOCKETS) for path in (mount.root, mount.target))


def _known(mount: MountView, known: set[str]) -> bool:
    if mount.kind in {"cgroup", "cgroup2"}:
        return mount.target.startswith("/sys/fs/cgroup") and "ro" in mount.options
    return mount.target in known


def _targets(kernel: KernelView, wanted: Callable[[MountView], bool]) -> tuple[str, ...]:
    return tuple(mount.target for mount in kernel.mounts if wanted(mount))


def _namespaces(kernel: KernelView) -> Iterator[PostureCheck]:
    for name, own in kernel.namespaces.items():
        actual = "the host's" if own == kernel.host_namespaces.get(name) else "its own"
        yield same(f"{name}_namespace", "its own", actual, _NAMESPACE_CIS.get(name, ""))
    strangers = sorted({*kernel.interfaces} - {"lo"} - _FALLBACK_TUNNELS)
    yield same("other_interfaces", (), tuple(strangers), "5.29")


def _ulimits(template: Template, kernel: KernelView) -> Iterator[PostureCheck]:
    for name, limit in ulimits_of(template).items():
        actual = kernel.limits.get(_LIMIT_NAMES[name], ("unknown", "unknown"))
        yield same(f"ulimit {name}", (str(limit), str(limit)), actual, "5.18")


# --- the engine's side ----------------------------------------------------------------------------------------------
def _engine(
    record: SandboxRecord, template: Template, expected: Expected, inspected: Inspected
) -> Iterator[PostureCheck]:
    host = inspected.get("HostConfig") or {}
    for name, key, usual, cis in _HOST_CONFIG:
        wanted = not has(template, Loosening.WRITABLE_ROOT) if key == "ReadonlyRootfs" else usual
        yield same(name, wanted, host.get(key) or type(usual)(), cis, "engine")
    yield same("runtime", template.runtime, host.get("Runtime", ""), "", "engine")
    yield same("log_driver", "none", (host.get("LogConfig") or {}).get("Type", ""), "", "engine")
    yield same("restart_policy", "no", (host.get("RestartPolicy") or {}).get("Name") or "no", "5.14", "engine")
    yield same("image", expected.image_id, inspected.get("Image", ""), "5.27", "engine")
    yield same("seccomp_profile", _digest(expected.seccomp), _engine_profile(host), "5.21", "engine")
    config = inspected.get("Config") or {}
    yield same("user", f"{record.uid}:{record.uid}", config.get("User", ""), "", "engine")
    # Names only: a posture is shown, and whatever is set besides ours may be somebody's secret.
    strangers = {*(config.get("Env") or [])} - {*environment_of(expected.ca_bundle)}
    yield same("other_environment", (), tuple(sorted(word.partition("=")[0] for word in strangers)), "", "engine")
    networks = (inspected.get("NetworkSettings") or {}).get("Networks") or {}
    yield same("other_networks", (), tuple(sorted({*networks} - {"none"})), "5.29", "engine")
    yield _engine_mounts(expected, inspected, template.runtime)


def _digest(text: str) -> str:
    return f"sha256:{sha256(text.encode()).hexdigest()[:16]}"


def _engine_profile(host: Inspected) -> str:
    options = [option for option in host.get("SecurityOpt") or [] if option.startswith(("seccomp=", "seccomp:"))]
    return _digest(options[0][len("seccomp=") :]) if len(options) == 1 else f"{len(options)} profiles"


def _engine_mounts(expected: Expected, inspected: Inspected, runtime: str) -> PostureCheck:
    def source(path: str, target: str) -> str:
        return path if expected.directories or target == CA_BUNDLE else ""

    binds = binds_of(expected.directories or SandboxDirectories("", "", ""), expected.ca_bundle, runtime)
    wanted = [
        _mount_text(source(bind.source, bind.target), bind.target, "ro" if bind.read_only else "rw", bind.propagation)
        for bind in binds
    ]
    actual = [
        _mount_text(
            source(str(mount.get("Source")), str(mount.get("Destination"))),
            str(mount.get("Destination")),
            "rw" if mount.get("RW") else "ro",
            str(mount.get("Propagation")),
        )
        for mount in inspected.get("Mounts") or []
    ]
    return same("mounts", sorted(wanted), sorted(actual), "5.5", "engine")


def _mount_text(source: str, target: str, access: str, propagation: str) -> str:
    return f"{source}:{target}:{access}:{propagation}"
