"""The control: one container from the sandboxes' own options, with every protection taken away field by field."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker as sdk

from perstackd.adapters.docker.engine import read_profile
from perstackd.adapters.docker.hardening import container_name, container_options
from tests.integration.docker.rig import DAEMON_ID, SECCOMP, Rig, docker, shared_directory, waiting_image

Options = dict[str, Any]
CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
]  # by number, see capabilities(7)


@contextmanager
def weakened_container() -> Iterator[str]:
    """The id of a running one; removed at the end with its image."""
    with waiting_image(), shared_directory(Path(f"/tmp/escape-{os.getpid()}")) as root:
        rig = Rig(root)
        record, template = rig.record(), rig.template()
        client: Any = sdk.APIClient("unix:///var/run/docker.sock", version="auto", timeout=60)
        try:
            image = str(client.inspect_image(template.image)["Id"])
            options: Options = container_options(
                record,
                template,
                rig.directories(record),
                image_id=image,
                seccomp=read_profile(str(SECCOMP)),
                daemon_id=DAEMON_ID,
            )
            weaken(options)
            container = str(client.create_container_from_config(options, container_name(record.id))["Id"])
            client.start(container)
        finally:
            client.close()
        yield container
        docker("rm", "--force", container)


def weaken(options: Options) -> None:
    """Everything that `hardening` asks for, undone. Not `Privileged`: an engine that lacks a capability refuses it."""
    options["User"] = "0:0"
    host = options["HostConfig"]
    host.update(
        CapDrop=[],
        CapAdd=capabilities(),
        SecurityOpt=["seccomp=unconfined", "apparmor=unconfined"],
        ReadonlyRootfs=False,
        MaskedPaths=[],
        ReadonlyPaths=[],
        NetworkMode="host",
        Tmpfs={},
        Binds=["/var/run/docker.sock:/var/run/docker.sock", "/etc:/host/etc:ro"],
    )
    options.pop("Hostname")  # the host's network namespace brings its name
    for mount in host["Mounts"]:
        mount["ReadOnly"] = False
        mount["BindOptions"].pop("ReadOnlyNonRecursive", None)


def capabilities() -> list[str]:
    """Every capability that this machine's bounding set still has, as the engine of 2020 knows them."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd")]
    bounding = int(line.split()[1], 16)
    return [name for place, name in enumerate(CAPABILITIES) if bounding >> place & 1]


def run_inside(container: str, source: str, *arguments: str) -> dict[str, tuple[bool, str]]:
    """The probes' answer from the container."""
    command = ["docker", "exec", container, "python3", "-c", source, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return {name: (found, what) for name, (found, what) in json.loads(done.stdout).items()}
