"""What the engine is asked for."""

import json
from typing import Any

import pytest
from perstack_runner.environment import child_environment

from perstackd.adapters.docker.hardening import container_name, container_options, tmpfs_of
from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import SandboxRecord, SandboxState, Template
from perstackd.ports.sandboxes import SandboxDirectories

RECORD = SandboxRecord(
    SandboxId("01J0000000000000000000TEST"),
    "base",
    SandboxState.STARTING,
    uid=200_007,
    created_at=0,
    session_token_hash="never-to-be-seen",
)
TEMPLATE = Template("base", "perstack/base", cpus=1.5, nofile=2048)
DIRECTORIES = SandboxDirectories("/run/p/gw", "/run/p/slot", "/run/p/id")


def options(template: Template = TEMPLATE, ca_bundle: str = "") -> dict[str, Any]:
    return container_options(
        RECORD,
        template,
        DIRECTORIES,
        image_id="sha256:1",
        seccomp='{"x":1}',
        daemon_id="daemon-1",
        ca_bundle=ca_bundle,
    )


def host(template: Template = TEMPLATE) -> dict[str, Any]:
    found: dict[str, Any] = options(template)["HostConfig"]
    return found


def test_a_container_is_named_and_labelled_by_its_sandbox() -> None:
    assert container_name(RECORD.id) == "perstack-01J0000000000000000000TEST"
    assert options()["Labels"] == {"dev.perstack.daemon": "daemon-1", "dev.perstack.sandbox": RECORD.id}


def test_it_runs_as_the_sandboxs_own_uid_without_any_privilege() -> None:
    assert options()["User"] == "200007:200007"
    assert host()["CapDrop"] == ["ALL"]
    assert host()["CapAdd"] == []
    assert host()["Privileged"] is False
    assert host()["SecurityOpt"] == ["no-new-privileges", 'seccomp={"x":1}']


def test_it_shares_no_namespace_and_has_no_network() -> None:
    names = ("NetworkMode", "IpcMode", "CgroupnsMode", "PidMode", "UTSMode")
    assert [host()[name] for name in names] == ["none", "private", "private", "", ""]
    assert (host()["PortBindings"], host()["PublishAllPorts"], host()["Devices"]) == ({}, False, [])


def test_all_of_the_host_that_it_sees_is_read_only() -> None:
    seen = {mount["Target"]: (mount["Source"], mount["ReadOnly"]) for mount in host()["Mounts"]}
    assert seen == {
        "/gw": ("/run/p/gw", True),
        "/mnt": ("/run/p/slot", True),
        "/etc/passwd": ("/run/p/id/passwd", True),
        "/etc/group": ("/run/p/id/group", True),
    }
    assert host()["ReadonlyRootfs"] is True


def test_only_the_slot_receives_mounts_and_sends_none() -> None:
    propagation = {mount["Target"]: mount["BindOptions"]["Propagation"] for mount in host()["Mounts"]}
    assert propagation.pop("/mnt") == "rslave"
    assert set(propagation.values()) == {"rprivate"}


def test_every_tmpfs_is_bounded_and_takes_neither_setuid_nor_devices() -> None:
    assert set(host()["Tmpfs"]) == {"/tmp", "/run", "/run/log", "/home/perstack"}
    for text in host()["Tmpfs"].values():
        words = text.split(",")
        assert {"nosuid", "nodev", "uid=200007", "gid=200007"} <= {*words}
        assert any(word.startswith("size=") for word in words)
        assert any(word.startswith("nr_inodes=") for word in words)


def test_the_template_chooses_the_sizes() -> None:
    template = Template("t", "i", memory=1 << 30, cpus=0.5, cpu_shares=64, pids=99, fsize=7, nofile=55, shm_bytes=4096)
    found = host(template)
    assert (found["Memory"], found["MemorySwap"]) == (1 << 30, 1 << 30)
    assert (found["CpuQuota"], found["CpuPeriod"], found["CpuShares"]) == (50_000, 100_000, 64)
    assert (found["PidsLimit"], found["ShmSize"]) == (99, 4096)
    limits = {limit["Name"]: (limit["Soft"], limit["Hard"]) for limit in found["Ulimits"]}
    assert limits == {"nofile": (55, 55), "core": (0, 0), "fsize": (7, 7)}


def test_the_engine_keeps_no_log_and_starts_nothing_again() -> None:
    assert host()["LogConfig"]["Type"] == "none"
    assert host()["RestartPolicy"]["Name"] == "no"
    assert host()["Init"] is False
    assert not any(options()[name] for name in ("Tty", "OpenStdin", "AttachStdin", "AttachStdout", "AttachStderr"))


def test_the_environment_says_nothing_but_where_things_are() -> None:
    assert {word.partition("=")[0] for word in options()["Env"]} == {"PATH", "HOME", "LANG", "NODE_USE_ENV_PROXY"}


def test_authorities_of_the_operator_are_mounted_read_only_and_every_program_is_told_of_them() -> None:
    found = options(ca_bundle="/run/p/ca-1.pem")
    (mount,) = (one for one in found["HostConfig"]["Mounts"] if one["Source"] == "/run/p/ca-1.pem")
    assert mount["ReadOnly"] is True
    assert mount["BindOptions"] == {"Propagation": "rprivate"}
    named = dict(word.split("=", 1) for word in found["Env"])
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO")
    assert {named[name] for name in names} == {mount["Target"]}


def test_what_the_sandbox_is_told_reaches_what_the_runner_starts() -> None:
    own = dict(word.split("=", 1) for word in options(ca_bundle="/run/p/ca-1.pem")["Env"])
    assert own.items() <= child_environment(own, 3128, ()).items()


def test_nothing_of_the_record_but_id_and_uid_reaches_the_engine() -> None:
    assert "never-to-be-seen" not in json.dumps(options())


def test_the_default_templates_memory_covers_its_tmpfs_and_256_mib() -> None:
    template = Template("base", "perstack/base")
    charged = sum(tmpfs.bytes for tmpfs in tmpfs_of(template)) + template.shm_bytes
    assert template.memory >= charged + (256 << 20)


@pytest.mark.parametrize(
    ("name", "arguments"), [("base", []), ("skills", ["--skills"]), ("skills-full", ["--skills"]), ("skillset", [])]
)
def test_members_of_skills_templates_are_told_so(name: str, arguments: list[str]) -> None:
    assert options(Template(name, "i"))["Cmd"] == arguments


@pytest.mark.parametrize("runtime", ["runc", "runsc"])
def test_the_runtime_is_the_templates(runtime: str) -> None:
    assert host(Template("t", "i", runtime=runtime))["Runtime"] == runtime
