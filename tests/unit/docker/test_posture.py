"""The comparison, on recorded states: what is as asked passes, each single difference is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perstackd.adapters.docker import kernel
from perstackd.adapters.docker.hardening import CA_BUNDLE, MASKED, READ_ONLY, environment_of, profile_for
from perstackd.adapters.docker.posture import Expected, compare, not_running
from perstackd.adapters.docker.posture_cgroup import weights
from perstackd.domain.ids import SandboxId
from perstackd.domain.loosening import LOOSENED as LOOSENED_BY
from perstackd.domain.loosening import Loosening
from perstackd.domain.sandbox import Posture, SandboxRecord, SandboxState, Template
from perstackd.ports.sandboxes import SandboxDirectories

FIXTURES = Path(__file__).parent / "fixtures"
INSPECTED: dict[str, Any] = json.loads((FIXTURES / "v1/inspect.json").read_text())
SOURCES = {mount["Destination"]: mount["Source"] for mount in INSPECTED["Mounts"]}
DIRECTORIES = SandboxDirectories(SOURCES["/gw"], SOURCES["/mnt"], str(Path(SOURCES["/etc/passwd"]).parent))
SECCOMP = INSPECTED["HostConfig"]["SecurityOpt"][1].removeprefix("seccomp=")
EXPECTED = Expected(INSPECTED["Image"], SECCOMP, DIRECTORIES)
TEMPLATE = Template("test", "image", memory=384 << 20)
RECORD = SandboxRecord(SandboxId("0" * 26), "test", SandboxState.STARTING, 200_001, created_at=0)
LIMITS = {
    1: kernel.CgroupLimits(1, "/cg", 384 << 20, 384 << 20, 256, 1.0, 256),
    2: kernel.CgroupLimits(2, "/cg", 384 << 20, 384 << 20, 256, 1.0, 10),
}


def observed(version: int = 1, **changes: Any) -> kernel.KernelView:
    top = FIXTURES / f"v{version}"
    return replace(
        kernel.KernelView(
            processes=(kernel.parse_status(10, (FIXTURES / "v1/status").read_text()),),
            mounts=kernel.parse_mountinfo((top / "mountinfo").read_text()),
            limits=kernel.parse_limits((FIXTURES / "v1/limits").read_text()),
            interfaces=("lo",),
            namespaces={name: f"{name}:[1]" for name in kernel.NAMESPACES},
            host_namespaces={name: f"{name}:[2]" for name in kernel.NAMESPACES},
            cgroup=LIMITS[version],
            devices=("full", "null", "random", "tty", "urandom", "zero"),
            host_paths=frozenset({"/proc/acpi", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/sys"}),
            lsm={},
        ),
        **changes,
    )


def judged(
    view: kernel.KernelView | None = None, inspected: dict[str, Any] | None = None, template: Template = TEMPLATE
) -> Posture:
    return compare(RECORD, template, EXPECTED, INSPECTED if inspected is None else inspected, view or observed())


def failed(posture: Posture) -> set[str]:
    return {check.name for check in posture.failed}


BUNDLE = "/run/p/ca-1.pem"


def with_bundle(source: str = BUNDLE, options: str = "ro", expected: Expected = EXPECTED) -> Posture:
    """The recorded sandbox, with authorities of the operator mounted from `source`."""
    mounts = [
        *INSPECTED["Mounts"],
        {"Type": "bind", "Source": source, "Destination": CA_BUNDLE, "RW": "rw" in options, "Propagation": "rprivate"},
    ]
    config = {**INSPECTED["Config"], "Env": [*environment_of(BUNDLE)]}
    inspected = {**INSPECTED, "Mounts": mounts, "Config": config}
    return compare(RECORD, TEMPLATE, replace(expected, ca_bundle=BUNDLE), inspected, extra(CA_BUNDLE, BUNDLE, options))


def test_the_operators_authorities_pass_where_they_are_configured() -> None:
    assert with_bundle().failed == ()


def test_a_sandbox_of_an_earlier_daemon_passes_with_the_same_authorities_only() -> None:
    earlier = replace(EXPECTED, directories=None)
    assert with_bundle(expected=earlier).failed == ()
    assert failed(with_bundle("/run/p/ca-2.pem", expected=earlier)) == {"mounts"}


def test_authorities_that_can_be_written_are_named() -> None:
    assert failed(with_bundle(options="rw")) == {"ca_bundle", "mounts"}


def test_missing_authorities_are_named() -> None:
    posture = compare(RECORD, TEMPLATE, replace(EXPECTED, ca_bundle=BUNDLE), INSPECTED, observed())
    assert failed(posture) == {"ca_bundle", "mounts"}


def test_authorities_that_nobody_configured_are_named() -> None:
    env = {**INSPECTED["Config"], "Env": [*environment_of(BUNDLE)]}
    posture = compare(RECORD, TEMPLATE, EXPECTED, {**INSPECTED, "Config": env}, extra(CA_BUNDLE, BUNDLE))
    assert failed(posture) == {"other_mounts", "other_environment"}


@pytest.mark.parametrize("version", [1, 2])
def test_a_sandbox_as_asked_passes_on_both_cgroup_versions(version: int) -> None:
    posture = judged(observed(version))
    assert posture.failed == ()
    assert posture.ok
    assert posture.exceptions == ()


def test_every_number_of_the_benchmark_that_applies_has_a_check() -> None:
    numbers = {number for check in judged().checks for number in check.cis.split()}
    without = {"5.22", "5.23", "5.26"}
    assert numbers == {f"5.{number}" for number in range(1, 32)} - without


def test_names_of_checks_are_unique() -> None:
    names = [check.name for check in judged().checks]
    assert len(names) == len(set(names))


def process(**changes: Any) -> kernel.KernelView:
    first = observed().processes[0]
    return observed(processes=(first, replace(first, **{"pid": 11, "name": "python3", **changes})))


def caps(name: str) -> kernel.KernelView:
    return process(capabilities={**dict.fromkeys(kernel.CAPABILITY_SETS, 0), name: 0x200000})


def mount(target: str, **changes: Any) -> kernel.KernelView:
    mounts = observed().mounts
    assert any(one.target == target for one in mounts)
    return observed(mounts=tuple(replace(one, **changes) if one.target == target else one for one in mounts))


def without(target: str) -> kernel.KernelView:
    return observed(mounts=tuple(one for one in observed().mounts if one.target != target))


def extra(target: str, root: str = "/", options: str = "ro") -> kernel.KernelView:
    one = kernel.MountView(root, target, frozenset(options.split(",")), (), "ext4", "/dev/x", frozenset())
    return observed(mounts=(*observed().mounts, one))


def option(target: str, drop: str, add: str = "") -> kernel.KernelView:
    (one,) = (found for found in observed().mounts if found.target == target)
    field = "options" if drop in one.options else "super_options"
    assert drop in getattr(one, field)
    return mount(target, **{field: getattr(one, field) - {drop} | ({add} if add else set())})


def limit(version: int = 1, **changes: Any) -> kernel.KernelView:
    return observed(version, cgroup=replace(LIMITS[version], **changes))


def ulimit(name: str, soft: str, hard: str) -> kernel.KernelView:
    return observed(limits={**observed().limits, name: (soft, hard)})


def shared_namespace(name: str) -> kernel.KernelView:
    return observed(host_namespaces={**observed().host_namespaces, name: f"{name}:[1]"})


KERNEL: list[tuple[str, Callable[[], kernel.KernelView]]] = [
    *[("capabilities", lambda name=name: caps(name)) for name in kernel.CAPABILITY_SETS],
    ("may_gain_privileges", lambda: process(no_new_privileges=False)),
    ("without_seccomp_filter", lambda: process(seccomp=0)),
    ("without_seccomp_filter", lambda: process(seccomp=1)),
    ("other_uids", lambda: process(uids=(200_001, 0, 200_001, 200_001))),
    ("other_uids", lambda: process(gids=(0, 0, 0, 0))),
    ("other_groups", lambda: process(groups=(200_001, 0))),
    ("sshd", lambda: process(name="sshd")),
    ("apparmor", lambda: observed(lsm={"apparmor": "unconfined"})),
    ("apparmor", lambda: observed(lsm={"apparmor": ""})),
    ("selinux", lambda: observed(lsm={"selinux": "system_u:system_r:spc_t:s0"})),
    ("root", lambda: option("/", "ro", "rw")),
    ("gateway", lambda: option("/gw", "ro", "rw")),
    ("gateway", lambda: without("/gw")),
    ("slot", lambda: option("/mnt", "ro", "rw")),
    ("passwd", lambda: without("/etc/passwd")),
    ("group", lambda: option("/etc/group", "ro", "rw")),
    ("sysfs", lambda: option("/sys", "ro", "rw")),
    ("tmpfs /tmp", lambda: option("/tmp", "nosuid")),
    ("tmpfs /tmp", lambda: option("/tmp", "nodev")),
    ("tmpfs /tmp", lambda: option("/tmp", "size=65536k", "size=65537k")),
    ("tmpfs /tmp", lambda: option("/tmp", "nr_inodes=16384")),
    ("tmpfs /run", lambda: option("/run", "noexec")),
    ("tmpfs /run/log", lambda: without("/run/log")),
    ("tmpfs /home/perstack", lambda: mount("/home/perstack", kind="ext4")),
    ("shm", lambda: option("/dev/shm", "size=1024k", "size=65536k")),
    ("shm", lambda: without("/dev/shm")),
    ("masked /proc/keys", lambda: without("/proc/keys")),
    ("masked /proc/acpi", lambda: option("/proc/acpi", "ro", "rw")),
    ("/proc/sys", lambda: option("/proc/sys", "ro", "rw")),
    ("/proc/sys", lambda: without("/proc/sys")),
    ("slot_propagation", lambda: mount("/mnt", propagation=())),
    ("shared_mounts", lambda: mount("/gw", propagation=("shared:5",))),
    ("engine_socket", lambda: extra("/tmp/x", root="/run/docker.sock")),
    ("other_mounts", lambda: extra("/host")),
    ("other_mounts", lambda: option("/sys/fs/cgroup/memory", "ro", "rw")),
    ("other_devices", lambda: observed(devices=("null", "kvm"))),
    *[(f"{name}_namespace", lambda name=name: shared_namespace(name)) for name in kernel.NAMESPACES],
    ("other_interfaces", lambda: observed(interfaces=("lo", "eth0"))),
    ("memory", lambda: limit(memory=None)),
    ("memory", lambda: limit(2, memory=(384 << 20) + 4096)),
    ("memory_and_swap", lambda: limit(memory_and_swap=None)),
    ("memory_and_swap", lambda: limit(2, memory_and_swap=768 << 20)),
    ("pids", lambda: limit(pids=None)),
    ("cpus", lambda: limit(cpus=None)),
    ("cpus", lambda: limit(2, cpus=2.0)),
    ("cpu_shares", lambda: limit(share=1024)),
    ("cpu_shares", lambda: limit(2, share=100)),
    ("ulimit nofile", lambda: ulimit("Max open files", "1024", "1048576")),
    ("ulimit core", lambda: ulimit("Max core file size", "0", "unlimited")),
    ("ulimit fsize", lambda: ulimit("Max file size", "unlimited", "unlimited")),
]


@pytest.mark.parametrize(("name", "weakened"), KERNEL)
def test_each_difference_in_the_kernel_fails_its_check(name: str, weakened: Callable[[], kernel.KernelView]) -> None:
    assert name in failed(judged(weakened()))


def host(**changes: Any) -> dict[str, Any]:
    return {**INSPECTED, "HostConfig": {**INSPECTED["HostConfig"], **changes}}


def config(**changes: Any) -> dict[str, Any]:
    return {**INSPECTED, "Config": {**INSPECTED["Config"], **changes}}


def engine_mount(**changes: Any) -> dict[str, Any]:
    first, *rest = INSPECTED["Mounts"]
    return {**INSPECTED, "Mounts": [{**first, **changes}, *rest]}


OURS = f"seccomp={SECCOMP}"
SOCKET = {"Type": "bind", "Source": "/run/docker.sock", "Destination": "/x", "RW": True, "Propagation": "rprivate"}
ENGINE: list[tuple[str, dict[str, Any]]] = [
    ("running", {**INSPECTED, "State": {"Status": "paused"}}),
    ("privileged", host(Privileged=True)),
    ("added_capabilities", host(CapAdd=["CHOWN"])),
    ("dropped_capabilities", host(CapDrop=None)),
    ("dropped_capabilities", host(CapDrop=["CHOWN"])),
    ("devices", host(Devices=[{"PathOnHost": "/dev/kvm"}])),
    ("device_requests", host(DeviceRequests=[{"Count": -1}])),
    ("device_rules", host(DeviceCgroupRules=["c 1:* rwm"])),
    ("binds", host(Binds=["/:/host"])),
    ("volumes_from", host(VolumesFrom=["other"])),
    ("network_mode", host(NetworkMode="bridge")),
    ("ports", host(PortBindings={"80/tcp": [{"HostPort": "80"}]})),
    ("publish_all_ports", host(PublishAllPorts=True)),
    ("links", host(Links=["other:other"])),
    ("ipc_mode", host(IpcMode="host")),
    ("pid_mode", host(PidMode="host")),
    ("uts_mode", host(UTSMode="host")),
    ("user_namespace_mode", host(UsernsMode="host")),
    ("cgroup_namespace_mode", host(CgroupnsMode="host")),
    ("cgroup_parent", host(CgroupParent="/other")),
    ("read_only_root", host(ReadonlyRootfs=False)),
    ("oom_kill_disabled", host(OomKillDisable=True)),
    ("extra_groups", host(GroupAdd=["docker"])),
    ("sysctls", host(Sysctls={"kernel.msgmax": "1"})),
    ("engine_init", host(Init=True)),
    ("auto_remove", host(AutoRemove=True)),
    ("runtime", host(Runtime="other")),
    ("log_driver", host(LogConfig={"Type": "json-file"})),
    ("restart_policy", host(RestartPolicy={"Name": "always"})),
    ("image", {**INSPECTED, "Image": "sha256:0"}),
    ("seccomp_profile", host(SecurityOpt=["no-new-privileges"])),
    ("seccomp_profile", host(SecurityOpt=[OURS, "seccomp=unconfined"])),
    ("seccomp_profile", host(SecurityOpt=[f"{OURS} "])),
    ("user", config(User="0:0")),
    ("other_environment", config(Env=[*INSPECTED["Config"]["Env"], "LD_PRELOAD=/x"])),
    ("other_networks", {**INSPECTED, "NetworkSettings": {"Networks": {"none": {}, "bridge": {}}}}),
    ("mounts", engine_mount(RW=True)),
    ("mounts", engine_mount(Propagation="rshared")),
    ("mounts", engine_mount(Source="/etc")),
    ("mounts", {**INSPECTED, "Mounts": INSPECTED["Mounts"][1:]}),
    ("mounts", {**INSPECTED, "Mounts": [*INSPECTED["Mounts"], SOCKET]}),
]


@pytest.mark.parametrize(("name", "inspected"), ENGINE)
def test_each_difference_at_the_engine_fails_its_check(name: str, inspected: dict[str, Any]) -> None:
    assert failed(judged(inspected=inspected)) == {name}


def test_an_engine_that_forgot_everything_fails_and_does_not_crash() -> None:
    posture = judged(inspected={})
    assert {"running", "dropped_capabilities", "network_mode", "mounts", "log_driver"} <= failed(posture)


def test_the_values_of_foreign_environment_variables_are_not_shown() -> None:
    posture = judged(inspected=config(Env=["TOKEN=hunter2"]))
    assert "hunter2" not in repr(posture)
    assert any(check.actual == "TOKEN" for check in posture.failed)


def test_apparmors_default_profile_passes_where_the_host_has_it() -> None:
    assert judged(observed(lsm={"apparmor": "docker-default (enforce)"})).ok


def test_without_apparmor_the_check_says_so_and_passes() -> None:
    (check,) = (check for check in judged().checks if check.name == "apparmor")
    assert (check.cis, check.ok, check.actual) == ("5.1", True, "host has no AppArmor")


def test_fallback_tunnels_of_the_kernel_are_no_way_out() -> None:
    assert judged(observed(interfaces=("lo", "tunl0", "sit0"))).ok


LOOSENED = replace(TEMPLATE, exceptions=("writable-root",))


def writable(**changes: Any) -> dict[str, Any]:
    return {**INSPECTED, "HostConfig": {**INSPECTED["HostConfig"], "ReadonlyRootfs": False, **changes}}


def writable_view() -> kernel.KernelView:
    view = observed()
    mounts = tuple(
        replace(mount, options=mount.options - {"ro"} | {"rw"}) if mount.target == "/" else mount
        for mount in view.mounts
    )
    return replace(view, mounts=mounts)


def test_an_exception_is_listed_and_named_at_each_check_that_it_loosens() -> None:
    posture = judged(writable_view(), writable(), LOOSENED)
    assert posture.ok
    assert posture.exceptions == ("writable-root",)
    named = {check.name: check.expected for check in posture.checks if "exception" in check.expected}
    assert named == {"root": "rw (exception writable-root)", "read_only_root": "no (exception writable-root)"}
    assert {check.cis for check in posture.checks if check.name in named} == {"5.12"}


def test_without_the_exception_the_same_sandbox_differs() -> None:
    assert failed(judged(writable_view(), writable())) == {"root", "read_only_root"}


def test_an_exception_excuses_nothing_else_and_a_tighter_sandbox_is_another_one_too() -> None:
    assert failed(judged(writable_view(), writable(CapAdd=["NET_RAW"]), LOOSENED)) == {"added_capabilities"}
    assert failed(judged(template=LOOSENED)) == {"root", "read_only_root"}


def test_ptrace_is_another_profile_and_the_usual_one_differs_from_it() -> None:
    template = replace(TEMPLATE, exceptions=("ptrace",))
    loosened = profile_for(template, SECCOMP)
    usual, added = json.loads(SECCOMP), json.loads(loosened)
    assert added.pop("syscalls")[:-1] == usual.pop("syscalls")
    assert added == usual
    expected = replace(EXPECTED, seccomp=loosened)
    options = [*INSPECTED["HostConfig"]["SecurityOpt"][:1], f"seccomp={loosened}"]
    inspected = {**INSPECTED, "HostConfig": {**INSPECTED["HostConfig"], "SecurityOpt": options}}
    assert compare(RECORD, template, expected, inspected, observed()).ok
    assert failed(compare(RECORD, template, expected, INSPECTED, observed())) == {"seccomp_profile"}
    assert failed(judged(inspected=inspected)) == {"seccomp_profile"}


def test_every_exception_loosens_checks_that_there_are_and_none_of_privileges_or_namespaces() -> None:
    names = {check.name for check in judged().checks}
    loosened = {check for each in LOOSENED_BY.values() for check in each.checks}
    assert set(LOOSENED_BY) == set(Loosening)
    assert loosened == {"root", "read_only_root", "seccomp_profile"}
    assert loosened <= names


def test_sources_of_mounts_are_not_compared_for_a_sandbox_of_an_earlier_process() -> None:
    expected = replace(EXPECTED, directories=None)
    assert compare(RECORD, TEMPLATE, expected, engine_mount(Source="/elsewhere"), observed()).ok
    assert failed(compare(RECORD, TEMPLATE, expected, engine_mount(RW=True), observed())) == {"mounts"}


@pytest.mark.parametrize("runtime", ["crun", "runsc"])
def test_a_runtime_without_rules_for_what_is_seen_never_passes(runtime: str) -> None:
    posture = judged(template=replace(TEMPLATE, runtime=runtime))
    found = f"the runtime {runtime} has no posture rules for what is seen of it"
    assert [check.actual for check in posture.failed] == [found]


def test_what_does_not_run_has_one_failed_check() -> None:
    posture = not_running(RECORD.id, "exited")
    assert not posture.ok
    assert [check.actual for check in posture.checks] == ["exited"]


@pytest.mark.parametrize(
    ("shares", "older", "newer"), [(1024, 39, 100), (2000, 77, 170), (2, 1, 1), (262144, 10000, 10000)]
)
def test_shares_become_the_weights_that_runtimes_write(shares: int, older: int, newer: int) -> None:
    assert weights(shares) == {older, newer}


def test_the_lists_of_covered_paths_do_not_overlap() -> None:
    assert not {*MASKED} & {*READ_ONLY}
