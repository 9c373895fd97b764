"""The control: containers from the sandboxes' own options, with protections taken away field by field."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker as sdk

from perstackd.adapters.docker.engine import read_profile
from perstackd.adapters.docker.hardening import container_name, container_options
from perstackd.ports.sandboxes import SandboxDirectories
from tests.integration.docker.rig import DAEMON_ID, SECCOMP, Rig

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


Change = Callable[[Options], None]


@dataclass(frozen=True, slots=True)
class Engine:
    """Where controls run: the machine's engine, or a test's own with gVisor."""

    url: str = "unix:///var/run/docker.sock"
    runtime: str = "runc"

    def docker(self, *arguments: str) -> str:
        """The docker command's output; a failing one fails the test with what it said."""
        command = ["docker", "-H", self.url, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


MACHINES = Engine()


@dataclass(frozen=True, slots=True)
class Container:
    """A running one. `root` is a directory of the host that it has at /host/run; `directories` are its own."""

    id: str
    uid: int
    root: Path
    directories: SandboxDirectories
    engine: Engine


@contextmanager
def started(rig: Rig, change: Change, engine: Engine = MACHINES) -> Iterator[Container]:
    """A container of the rig's image from the sandboxes' own options with `change` made to them; removed at the end."""
    record, template = rig.record(), rig.template(runtime=engine.runtime)
    directories = rig.directories(record)
    client: Any = sdk.APIClient(engine.url, version="auto", timeout=60)
    try:
        image_id = str(client.inspect_image(template.image)["Id"])
        options: Options = container_options(
            record, template, directories, image_id=image_id, seccomp=read_profile(str(SECCOMP)), daemon_id=DAEMON_ID
        )
        options["HostConfig"]["Binds"] = [f"{rig.root}:/host/run"]
        change(options)
        container = str(client.create_container_from_config(options, container_name(record.id))["Id"])
        client.start(container)
    finally:
        client.close()
    try:
        yield Container(container, record.uid, rig.root, directories, engine)
    finally:
        engine.docker("rm", "--force", container)


def weaken(options: Options) -> None:
    """Everything that `hardening` asks for, undone. Not `Privileged`: an engine that lacks a capability refuses it."""
    options["User"] = "0:0"
    host = options["HostConfig"]
    host.update(
        CapDrop=[],
        CapAdd=capabilities(),
        SecurityOpt=["seccomp=unconfined", "apparmor=unconfined"],
        DeviceCgroupRules=["a *:* rwm"],
        CgroupnsMode="host",
        MaskedPaths=[],
        ReadonlyPaths=[],
        NetworkMode="host",
    )
    unlimited(options)
    host["Binds"] += ["/var/run/docker.sock:/var/run/docker.sock", "/etc:/host/etc:ro"]
    options.pop("Hostname")  # the host's network namespace brings its name
    for mount in host["Mounts"]:
        mount["ReadOnly"] = False
        mount["BindOptions"].pop("ReadOnlyNonRecursive", None)


def unlimited(options: Options) -> None:
    """No bound on memory, processes, files and their sizes; the rest as sandboxes have it."""
    host = options["HostConfig"]
    host.update(Memory=0, MemorySwap=0, PidsLimit=0, Ulimits=[], Tmpfs={}, ReadonlyRootfs=False)


def as_root_of_its_own_network(options: Options) -> None:
    """Weakened, but with a network namespace of its own, in which it may do what it likes."""
    weaken(options)
    options["HostConfig"]["NetworkMode"] = "none"


def among_processes_of(container: str) -> Change:
    """As a sandbox is, but in the process namespace of another."""

    def change(options: Options) -> None:
        options["HostConfig"]["PidMode"] = f"container:{container}"

    return change


def capabilities() -> list[str]:
    """Every capability that this machine's bounding set still has, as the engine of 2020 knows them."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd")]
    bounding = int(line.split()[1], 16)
    return [name for place, name in enumerate(CAPABILITIES) if bounding >> place & 1]


def run_inside(container: Container, source: str, *arguments: str) -> str:
    """What a Python program prints in the container."""
    return container.engine.docker("exec", container.id, "python3", "-c", source, *arguments)
