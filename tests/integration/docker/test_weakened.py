"""Trust the kernel, not the request: one option of a real container is changed, and the posture names it.

The control is the same path without a change: it passes. What this engine or kernel refuses to start cannot be
weakened here; tests/unit/docker/test_posture.py has those on recorded states.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import docker as sdk
import pytest

from perstackd.adapters.docker.engine import DockerSandboxes, read_profile
from perstackd.adapters.docker.hardening import container_name, container_options
from perstackd.domain.sandbox import Posture, SandboxRecord, Template
from perstackd.ports.sandboxes import SandboxDirectories
from tests.integration.docker.rig import DAEMON_ID, SECCOMP, Rig

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

Options = dict[str, Any]
Change = Callable[[Options], None]


def start(record: SandboxRecord, directories: SandboxDirectories, template: Template, change: Change) -> str:
    """Start a container past the adapter, with `change` made to what it would ask for; returns the image's id."""
    client: Any = sdk.APIClient("unix:///var/run/docker.sock", version="auto", timeout=60)
    try:
        image = str(client.inspect_image(template.image)["Id"])
        options: Options = container_options(
            record, template, directories, image_id=image, seccomp=read_profile(str(SECCOMP)), daemon_id=DAEMON_ID
        )
        change(options)
        container = client.create_container_from_config(options, container_name(record.id))["Id"]
        client.start(container)
    finally:
        client.close()
    return image


async def judged(rig: Rig, engine: DockerSandboxes, change: Change) -> Posture:
    record, template = rig.record(), rig.template()
    image = await asyncio.to_thread(start, record, rig.directories(record), template, change)
    return await engine.posture(replace(record, image_id=image), template)


def nothing(_: Options) -> None:
    """The control."""


def host(**values: Any) -> Change:
    return lambda options: options["HostConfig"].update(values)


def body(**values: Any) -> Change:
    return lambda options: options.update(values)


def both(*changes: Change) -> Change:
    def change(options: Options) -> None:
        for one in changes:
            one(options)

    return change


def security(*words: str) -> Change:
    def change(options: Options) -> None:
        profile = options["HostConfig"]["SecurityOpt"][1]
        options["HostConfig"]["SecurityOpt"] = [profile if word == "ours" else word for word in words]

    return change


def tmpfs(path: str, old: str, new: str) -> Change:
    def change(options: Options) -> None:
        assert old in options["HostConfig"]["Tmpfs"][path]
        options["HostConfig"]["Tmpfs"][path] = options["HostConfig"]["Tmpfs"][path].replace(old, new)

    return change


def no_tmpfs(path: str) -> Change:
    return lambda options: options["HostConfig"]["Tmpfs"].pop(path)


def mount(target: str, **values: Any) -> Change:
    def change(options: Options) -> None:
        (one,) = (found for found in options["HostConfig"]["Mounts"] if found["Target"] == target)
        one.update(values)

    return change


def no_mount(target: str) -> Change:
    def change(options: Options) -> None:
        mounts = options["HostConfig"]["Mounts"]
        options["HostConfig"]["Mounts"] = [one for one in mounts if one["Target"] != target]

    return change


def extra_mount(source: str, target: str) -> Change:
    def change(options: Options) -> None:
        one = {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}
        options["HostConfig"]["Mounts"].append(one)

    return change


def ulimit(name: str, soft: int, hard: int) -> Change:
    def change(options: Options) -> None:
        for limit in options["HostConfig"]["Ulimits"]:
            if limit["Name"] == name:
                limit.update(Soft=soft, Hard=hard)

    return change


def no_ulimits(options: Options) -> None:
    options["HostConfig"]["Ulimits"] = []


def propagation(value: str) -> dict[str, Any]:
    return {"BindOptions": {"Propagation": value}}


CASES: dict[str, tuple[Change, set[str]]] = {
    "capabilities of the engine's default": (host(CapDrop=[]), {"capabilities", "dropped_capabilities"}),
    "one capability": (host(CapAdd=["NET_RAW"]), {"capabilities", "added_capabilities"}),
    "every capability": (host(CapDrop=[], CapAdd=["ALL"]), {"capabilities", "added_capabilities"}),
    "privileged": (host(Privileged=True), {"privileged"}),
    "new privileges": (security("ours"), {"may_gain_privileges"}),
    "no seccomp": (security("no-new-privileges", "seccomp=unconfined"), {"without_seccomp_filter", "seccomp_profile"}),
    "the engine's seccomp": (security("no-new-privileges"), {"seccomp_profile"}),
    "root inside": (body(User="0:0"), {"other_uids", "user"}),
    "the gid of root": (body(User="200001:0"), {"other_uids", "user"}),
    "another group": (host(GroupAdd=["0"]), {"other_groups", "extra_groups"}),
    "writable root": (host(ReadonlyRootfs=False), {"root", "read_only_root"}),
    "no tmpfs at /tmp": (no_tmpfs("/tmp"), {"tmpfs /tmp"}),
    "no tmpfs for the log": (no_tmpfs("/run/log"), {"tmpfs /run/log"}),
    "no tmpfs at home": (no_tmpfs("/home/perstack"), {"tmpfs /home/perstack"}),
    "setuid in /tmp": (tmpfs("/tmp", "nosuid", "suid"), {"tmpfs /tmp"}),
    "devices in /tmp": (tmpfs("/tmp", "nodev", "dev"), {"tmpfs /tmp"}),
    "programs in /run": (tmpfs("/run", "noexec", "exec"), {"tmpfs /run"}),
    "more bytes in /tmp": (tmpfs("/tmp", "size=67108864", "size=1g"), {"tmpfs /tmp"}),
    "more inodes at home": (tmpfs("/home/perstack", "nr_inodes=16384", "nr_inodes=0"), {"tmpfs /home/perstack"}),
    "writable gateway": (mount("/gw", ReadOnly=False), {"gateway", "mounts"}),
    "no gateway": (no_mount("/gw"), {"gateway", "mounts"}),
    "writable slot": (mount("/mnt", ReadOnly=False), {"slot", "mounts"}),
    "a slot that receives nothing": (mount("/mnt", **propagation("rprivate")), {"slot_propagation", "mounts"}),
    "a slot that sends mounts": (mount("/mnt", **propagation("rshared")), {"slot_propagation", "shared_mounts"}),
    "the image's own passwd": (no_mount("/etc/passwd"), {"passwd", "mounts"}),
    "a writable group file": (mount("/etc/group", ReadOnly=False), {"group", "mounts"}),
    "the engine's socket": (extra_mount("/var/run/docker.sock", "/run/e.sock"), {"engine_socket", "other_mounts"}),
    "the engine's socket, bound": (host(Binds=["/var/run/docker.sock:/e.sock"]), {"engine_socket", "binds"}),
    "a host directory": (extra_mount("/etc", "/host"), {"other_mounts", "mounts"}),
    "authorities that nobody configured": (
        extra_mount("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/perstack-ca.pem"),
        {"other_mounts", "mounts"},
    ),
    "a volume": (body(Volumes={"/volume": {}}), {"other_mounts", "mounts"}),
    "a device": (
        host(Devices=[{"PathOnHost": "/dev/zero", "PathInContainer": "/dev/extra", "CgroupPermissions": "r"}]),
        {"other_devices", "devices"},
    ),
    "a device rule": (host(DeviceCgroupRules=["c 1:3 r"]), {"device_rules"}),
    "a network": (host(NetworkMode="bridge"), {"other_interfaces", "network_mode", "other_networks"}),
    "the host's network": (both(host(NetworkMode="host"), body(Hostname="")), {"net_namespace", "network_mode"}),
    "the host's processes": (host(PidMode="host"), {"pid_namespace", "pid_mode"}),
    "the host's ipc": (host(IpcMode="host"), {"ipc_namespace", "ipc_mode"}),
    "ipc that others may join": (host(IpcMode="shareable"), {"ipc_mode"}),
    "the host's name": (both(host(UTSMode="host"), body(Hostname="")), {"uts_namespace", "uts_mode"}),
    "the host's cgroups": (host(CgroupnsMode="host"), {"cgroup_namespace", "cgroup_namespace_mode"}),
    "the host's user namespace": (host(UsernsMode="host"), {"user_namespace_mode"}),
    "another cgroup parent": (host(CgroupParent=f"/{DAEMON_ID}"), {"cgroup_parent"}),
    "no memory limit": (host(Memory=0, MemorySwap=0), {"memory", "memory_and_swap"}),
    "more memory": (host(Memory=1 << 30, MemorySwap=1 << 30), {"memory", "memory_and_swap"}),
    "swap": (host(MemorySwap=-1), {"memory_and_swap"}),
    "no killer": (host(OomKillDisable=True), {"oom_kill_disabled"}),
    "no pids limit": (host(PidsLimit=0), {"pids"}),
    "more pids": (host(PidsLimit=4096), {"pids"}),
    "all cpus": (host(CpuQuota=0, CpuPeriod=0), {"cpus"}),
    "more shares": (host(CpuShares=1024), {"cpu_shares"}),
    "more open files": (ulimit("nofile", 1024, 2048), {"ulimit nofile"}),
    "core dumps": (ulimit("core", -1, -1), {"ulimit core"}),
    "endless files": (ulimit("fsize", -1, -1), {"ulimit fsize"}),
    "no ulimits": (no_ulimits, {"ulimit fsize"}),
    "a large /dev/shm": (host(ShmSize=64 << 20), {"shm"}),
    "nothing masked": (host(MaskedPaths=[]), {"masked /proc/keys", "masked /sys/firmware"}),
    "writable /proc/sys": (host(ReadonlyPaths=[]), {"/proc/sys"}),
    "a log": (host(LogConfig={"Type": "json-file", "Config": {}}), {"log_driver"}),
    "starting again": (host(RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 1}), {"restart_policy"}),
    "published ports": (host(PublishAllPorts=True), {"publish_all_ports"}),
    "a port": (host(PortBindings={"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}), {"ports"}),
    "the engine's init": (host(Init=True), {"engine_init", "other_mounts"}),
    "a sysctl": (host(Sysctls={"kernel.msgmax": "8192"}), {"sysctls"}),
    "an environment": (body(Env=["LD_PRELOAD=/x"]), {"other_environment"}),
    "another image": (body(Image="perstack/base:latest", Entrypoint=["sleep", "infinity"]), {"image"}),
}


def names(posture: Posture) -> set[str]:
    return {check.name for check in posture.failed}


async def test_the_control_passes(rig: Rig, engine: DockerSandboxes) -> None:
    posture = await judged(rig, engine, nothing)
    assert posture.failed == ()
    assert len(posture.checks) > 70


@pytest.mark.parametrize("case", CASES)
async def test_the_posture_names_what_was_weakened(rig: Rig, engine: DockerSandboxes, case: str) -> None:
    change, wanted = CASES[case]
    posture = await judged(rig, engine, change)
    assert not posture.ok
    assert wanted <= names(posture)
