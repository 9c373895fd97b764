"""What a gVisor sandbox must be like: its runtime, its filter, its sentry from the host, its guest from the runner."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perstackd.adapters.docker.hardening import binds_of, profile_for
from perstackd.adapters.docker.kernel import CgroupLimits, ProcessView, parse_mountinfo
from perstackd.adapters.docker.posture_runsc import sentry_checks
from perstackd.adapters.docker.runtimes import check_runtime
from perstackd.adapters.docker.sentry import SentryView
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.guest_view import guest_checks
from perstackd.domain.sandbox import PostureCheck, Template
from perstackd.ports.sandboxes import SandboxDirectories

TEMPLATE = Template("hard", "perstack/base:latest", runtime="runsc")
UID = 200_001
PROCESS = ProcessView(
    pid=10,
    name="exe",
    uids=(0,) * 4,
    gids=(0,) * 4,
    groups=(),
    capabilities={"CapInh": 0, "CapPrm": 0x8001F, "CapEff": 0x8001F, "CapBnd": 0x8001F, "CapAmb": 0},
    no_new_privileges=True,
    seccomp=2,
)
SENTRY = SentryView(
    arguments=("runsc-sandbox", "--host-uds=open", "--network=none", "--oci-seccomp=true", "boot"),
    processes=(PROCESS, replace(PROCESS, pid=11, capabilities={"CapEff": 0x4001F})),
    mounts=parse_mountinfo("864 1066 0:337 / / ro,relatime - tmpfs runsc-root rw\n"),
    gofer_mounts=parse_mountinfo("12 11 254:0 /run/s /mnt rw,relatime master:34 - ext4 /dev/vda rw\n"),
    interfaces=("lo",),
    namespaces={name: f"{name}:[1]" for name in ("ipc", "mnt", "net", "user", "uts")},
    host_namespaces={name: f"{name}:[2]" for name in ("ipc", "mnt", "net", "user", "uts")},
    cgroup=CgroupLimits(1, "/c", TEMPLATE.memory, TEMPLATE.memory, TEMPLATE.pids, TEMPLATE.cpus, TEMPLATE.cpu_shares),
)
GUEST = (
    "pid 1",
    f"status.Uid {UID} {UID} {UID} {UID}",
    f"status.Gid {UID} {UID} {UID} {UID}",
    *(f"status.{name} 0000000000000000" for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")),
    "status.Seccomp 2",
    *("mount./ ro 9p", "mount./gw ro 9p", "mount./mnt rw 9p", "mount./etc/passwd ro 9p", "mount./etc/group ro 9p"),
    *("mount./tmp rw tmpfs", "mount./run rw,noexec tmpfs", "mount./run/log rw,noexec tmpfs"),
    *("mount./home/perstack rw tmpfs", "mount./proc rw proc", "mount./sys/fs/cgroup/cpu rw cgroup"),
    "interface.lo up",
)


def failed(checks: list[PostureCheck]) -> list[str]:
    return [check.name for check in checks if not check.ok]


# --- the sentry -----------------------------------------------------------------------------------------------------
def test_a_confined_sentry_passes() -> None:
    assert failed(list(sentry_checks(TEMPLATE, SENTRY))) == []


WEAKER: dict[str, tuple[dict[str, Any], str]] = {
    "no filter inside": ({"arguments": ("runsc-sandbox", "--host-uds=open")}, "sentry options"),
    "creating host sockets": ({"arguments": ("x", "--host-uds=all", "--oci-seccomp=true")}, "sentry options"),
    "the host's network": ({"arguments": (*SENTRY.arguments, "--network=host")}, "sentry weakening options"),
    "a capability": ({"processes": (replace(PROCESS, capabilities={"CapEff": 1 << 21}),)}, "sentry capabilities"),
    "gaining privileges": ({"processes": (replace(PROCESS, no_new_privileges=False),)}, "may_gain_privileges"),
    "an unfiltered stub": ({"processes": (PROCESS, replace(PROCESS, seccomp=0))}, "without_seccomp_filter"),
    "a root with more in it": (
        {"mounts": parse_mountinfo("1 0 0:1 / / rw - ext4 /dev/vda rw\n")},
        "sentry root",
    ),
    "a slot that nothing reaches": (
        {"gofer_mounts": parse_mountinfo("1 0 0:1 / /mnt rw - ext4 /dev/vda rw\n")},
        "slot_propagation",
    ),
    "no gofer": ({"gofer_mounts": ()}, "slot_propagation"),
    "a namespace of the host": (
        {"namespaces": {**SENTRY.namespaces, "user": "user:[2]"}},
        "user_namespace",
    ),
    "an interface": ({"interfaces": ("lo", "eth0")}, "other_interfaces"),
    "no memory limit": ({"cgroup": replace(SENTRY.cgroup, memory=None)}, "memory"),
}


@pytest.mark.parametrize("name", WEAKER)
def test_each_weakness_of_a_sentry_fails_its_check(name: str) -> None:
    change, check = WEAKER[name]
    assert failed(list(sentry_checks(TEMPLATE, replace(SENTRY, **change)))) == [check]


# --- the guest ------------------------------------------------------------------------------------------------------
def test_a_guest_that_sees_what_it_should_passes() -> None:
    assert failed(list(guest_checks(GUEST, UID))) == []


@pytest.mark.parametrize(
    ("line", "instead", "check"),
    [
        (GUEST[1], "status.Uid 0 0 0 0", "guest uids"),
        (GUEST[2], "", "guest gids"),
        ("status.CapEff 0000000000000000", "status.CapEff 0000000000200000", "guest capabilities"),
        ("status.CapBnd 0000000000000000", "", "guest capabilities"),
        ("status.Seccomp 2", "status.Seccomp 0", "guest seccomp"),
        ("mount./ ro 9p", "mount./ rw 9p", "guest /"),
        ("mount./gw ro 9p", "", "guest /gw"),
        ("mount./tmp rw tmpfs", "mount./tmp rw 9p", "guest /tmp"),
        ("mount./proc rw proc", "mount./host rw 9p", "guest other mounts"),
        ("interface.lo up", "interface.eth0 up", "guest interfaces"),
    ],
)
def test_each_thing_that_a_guest_should_not_see_fails_its_check(line: str, instead: str, check: str) -> None:
    view = [instead if each == line else each for each in GUEST]
    assert failed(list(guest_checks(view, UID))) == [check]


def test_a_runner_that_tells_nothing_fails() -> None:
    assert len(failed(list(guest_checks((), UID)))) > 10


# --- what is asked for ----------------------------------------------------------------------------------------------
def test_the_slot_is_writable_for_gvisor_alone_and_nothing_else_is() -> None:
    directories = SandboxDirectories("/g", "/s", "/i")
    assert [bind.target for bind in binds_of(directories, runtime="runsc") if not bind.read_only] == ["/mnt"]
    assert [bind.target for bind in binds_of(directories) if not bind.read_only] == []


def test_what_the_filter_answers_with_enosys_stays_so_in_gvisor() -> None:
    profile = (Path(__file__).parents[3] / "sandbox-images/seccomp/profile.json").read_text()
    for runtime, action in (("runc", "SCMP_ACT_ERRNO"), ("runsc", "SCMP_ACT_TRACE")):
        document = json.loads(profile_for(Template("t", "i", runtime=runtime), profile))
        (rule,) = [rule for rule in document["syscalls"] if "clone3" in rule["names"]]
        assert rule["action"] == action
        assert (rule.get("errnoRet") == errno.ENOSYS) is (runtime == "runc")
        allowed = {
            name for each in document["syscalls"] if each["action"] == "SCMP_ACT_ALLOW" for name in each["names"]
        }
        assert "ptrace" not in allowed, "who may trace would carry out what is answered so"
    assert json.loads(profile_for(Template("t", "i"), profile)) == json.loads(profile)


# --- the runtime ----------------------------------------------------------------------------------------------------
def info(tmp_path: Path, said: str, *options: str) -> dict[str, Any]:
    program = tmp_path / "runsc"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    return {"Runtimes": {"runc": {"path": "runc"}, "runsc": {"path": str(program), "runtimeArgs": list(options)}}}


GOOD = ("--oci-seccomp", "--host-uds=open")


@pytest.mark.parametrize("said", ["runsc version 0.0~20240729.0", "runsc version release-20250101.1"])
@pytest.mark.parametrize("options", [GOOD, ("-oci-seccomp=true", "-host-uds=open", "--platform=kvm")])
def test_a_new_enough_gvisor_with_its_options_is_taken(tmp_path: Path, said: str, options: tuple[str, ...]) -> None:
    assert check_runtime("runsc", info(tmp_path, said, *options)).isdigit()


@pytest.mark.parametrize(
    ("said", "options", "reason"),
    [
        ("runsc version 0.0~20221219.0", GOOD, "runtime_too_old"),
        ("something else", GOOD, "runtime_too_old"),
        ("runsc version 0.0~20240729.0", ("--host-uds=open",), "runtime_options_missing"),
        ("runsc version 0.0~20240729.0", ("--oci-seccomp=false", "--host-uds=open"), "runtime_options_missing"),
        ("runsc version 0.0~20240729.0", ("--oci-seccomp", "--host-uds=all"), "runtime_options_missing"),
    ],
)
def test_a_gvisor_that_does_not_do_is_refused(tmp_path: Path, said: str, options: tuple[str, ...], reason: str) -> None:
    with pytest.raises(PerstackError) as refused:
        check_runtime("runsc", info(tmp_path, said, *options))
    assert (refused.value.kind, refused.value.reason) == (Kind.PRECONDITION, reason)
    assert "daemon.json" in refused.value.message or "tools/runsc" in refused.value.message


def test_a_runtime_that_is_not_there_is_refused_with_those_that_are() -> None:
    cases: tuple[dict[str, Any], ...] = (
        {"Runtimes": {"runc": {}}},
        {"Runtimes": {"runc": {}, "runsc": {"path": "/none", "runtimeArgs": list(GOOD)}}},
    )
    for found in cases:
        with pytest.raises(PerstackError) as refused:
            check_runtime("runsc", found)
        assert refused.value.reason == "runtime_missing"
