"""What the engine is asked for: one sandbox as a container of the Engine API. Pure.

Every sandbox has all of it; a template chooses sizes, and may name what it leaves out (`domain.loosening`). `posture`
holds what came of it to the same values.
"""

import errno
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from perstackd.domain.ids import SandboxId
from perstackd.domain.loosening import Loosening, has
from perstackd.domain.sandbox import SandboxRecord, Template
from perstackd.ports.sandboxes import SandboxDirectories

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

LABEL_DAEMON: Final = "dev.perstack.daemon"
LABEL_SANDBOX: Final = "dev.perstack.sandbox"
HOME: Final = "/home/perstack"
CA_BUNDLE: Final = "/etc/ssl/certs/perstack-ca.pem"
_CA_NAMES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO")
# Of the runner; it hands its children these and, from NODE_USE_ENV_PROXY on, what they need for the way out.
_ENVIRONMENT: Final = ("PATH=/usr/local/bin:/usr/bin:/bin", f"HOME={HOME}", "LANG=C.UTF-8", "NODE_USE_ENV_PROXY=1")

# The runner's standard error. The kernel ends the file where its tmpfs ends.
LOG_BYTES: Final = 64 << 10
LOG_INODES: Final = 8

# What moby masks in its newest version, sent with each container so that an older engine does the same.
MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_CPU_PERIOD: Final = 100_000


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """A tmpfs of a sandbox: the kernel refuses what goes beyond its bytes and inodes."""

    path: str
    bytes: int
    inodes: int
    mode: str
    executable: bool

    def options(self, uid: int) -> str:
        """Mount options. What pip and uv put into the home and /tmp must be executable."""
        rights = "exec" if self.executable else "noexec"
        owner = f"uid={uid},gid={uid},mode={self.mode}"
        return f"rw,nosuid,nodev,{rights},size={self.bytes},nr_inodes={self.inodes},{owner}"


@dataclass(frozen=True, slots=True)
class Bind:
    """A host path in a sandbox."""

    source: str
    target: str
    propagation: str
    read_only: bool = True


def container_name(sandbox_id: SandboxId) -> str:
    """The name of a sandbox's container; at most one container of an engine has it."""
    return f"perstack-{sandbox_id}"


def tmpfs_of(template: Template) -> tuple[Tmpfs, ...]:
    """The only places inside, beside the workspace and /dev/shm, that can be written."""
    return (
        Tmpfs("/tmp", template.tmp_bytes, template.tmp_inodes, "1777", executable=True),  # noqa: S108  a mount point inside
        Tmpfs("/run", template.run_bytes, template.run_inodes, "0755", executable=False),
        Tmpfs("/run/log", LOG_BYTES, LOG_INODES, "0700", executable=False),
        Tmpfs(HOME, template.home_bytes, template.home_inodes, "0700", executable=True),
    )


def environment_of(ca_bundle: str) -> tuple[str, ...]:
    """The variables of process 1: where things are, and the authorities to believe where the operator names them."""
    return (*_ENVIRONMENT, *(f"{name}={CA_BUNDLE}" for name in _CA_NAMES if ca_bundle))


def binds_of(directories: SandboxDirectories, ca_bundle: str = "", runtime: str = "runc") -> tuple[Bind, ...]:
    """All of the host that is mounted; all of it read-only. `ca_bundle` is the host's file, or empty.

    The slot is read-only too: a workspace that is attached later has the flags of its own mount. But gVisor knows one
    mount for the slot and all below it, so there it is writable, and its directory is root's alone; the workspace's own
    flags are kept by the host's kernel.
    """
    return (
        *((Bind(ca_bundle, CA_BUNDLE, "rprivate"),) if ca_bundle else ()),
        Bind(directories.gateway, "/gw", "rprivate"),
        Bind(directories.slot, "/mnt", "rslave", read_only=runtime != "runsc"),
        Bind(f"{directories.identity}/passwd", "/etc/passwd", "rprivate"),
        Bind(f"{directories.identity}/group", "/etc/group", "rprivate"),
    )


def ulimits_of(template: Template) -> dict[str, int]:
    """Limits per process, soft and hard alike. No nproc: the pids cgroup is the limit."""
    return {"nofile": template.nofile, "core": 0, "fsize": template.fsize}


def runner_arguments(template: Template) -> tuple[str, ...]:
    """What the runner is told at its start: members of `skills` templates import the MCP SDK while they are warm."""
    return ("--skills",) if template.name == "skills" or template.name.startswith("skills-") else ()


def profile_for(template: Template, profile: str) -> str:
    """The seccomp profile as the template's runtime reads it, as one line of JSON.

    gVisor answers every refusal with EPERM, whatever errno the profile asks for, and glibc then starts no thread: it
    goes on without clone3 on ENOSYS only. Being traced without a tracer is ENOSYS to every kernel (seccomp(2),
    SECCOMP_RET_TRACE), gVisor's as well, and the profile lets nobody trace.
    """
    document = json.loads(profile)
    if has(template, Loosening.PTRACE):
        document["syscalls"].append({"names": ["ptrace"], "action": "SCMP_ACT_ALLOW"})
    if template.runtime == "runsc":
        for rule in document["syscalls"]:
            if rule["action"] == "SCMP_ACT_ERRNO" and rule.get("errnoRet") == errno.ENOSYS:
                del rule["errnoRet"]
                rule["action"] = "SCMP_ACT_TRACE"
    return json.dumps(document, separators=(",", ":"))


def security_options(seccomp: str) -> list[str]:
    """The engine's security options; AppArmor's docker-default is the engine's own choice where the host has it."""
    return ["no-new-privileges", f"seccomp={seccomp}"]


def container_options(
    record: SandboxRecord,
    template: Template,
    directories: SandboxDirectories,
    *,
    image_id: str,
    seccomp: str,
    daemon_id: str,
    ca_bundle: str = "",
) -> dict[str, Json]:
    """The body of the engine's create call. `seccomp` is the profile's text, `ca_bundle` a file of the host or empty.
    Holds no secret.
    """
    return {
        "Image": image_id,
        "Cmd": list(runner_arguments(template)),
        "User": f"{record.uid}:{record.uid}",
        "Hostname": "sandbox",
        "Env": list(environment_of(ca_bundle)),
        "WorkingDir": "/",
        "Labels": {LABEL_DAEMON: daemon_id, LABEL_SANDBOX: record.id},
        "Healthcheck": {"Test": ["NONE"]},
        **dict.fromkeys(("Tty", "OpenStdin", "StdinOnce", "AttachStdin", "AttachStdout", "AttachStderr"), False),
        "HostConfig": {
            "Runtime": template.runtime,
            **_privileges(seccomp),
            **_namespaces(),
            **_files(template, binds_of(directories, ca_bundle, template.runtime), record.uid),
            **_limits(template),
            "Init": False,
            "AutoRemove": False,
            "LogConfig": {"Type": "none", "Config": {}},
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        },
    }


def _privileges(seccomp: str) -> dict[str, Json]:
    return {
        "Privileged": False,
        "CapAdd": [],
        "CapDrop": ["ALL"],
        "SecurityOpt": [*security_options(seccomp)],
        "Devices": [],
        "DeviceRequests": [],
        "DeviceCgroupRules": [],
        "GroupAdd": [],
        "Sysctls": {},
    }


def _namespaces() -> dict[str, Json]:
    return {
        "NetworkMode": "none",
        "PortBindings": {},
        "PublishAllPorts": False,
        "IpcMode": "private",
        "CgroupnsMode": "private",
        # The empty word asks for a namespace of its own.
        "PidMode": "",
        "UTSMode": "",
        "UsernsMode": "",
    }


def _files(template: Template, binds: Iterable[Bind], uid: int) -> dict[str, Json]:
    return {
        "ReadonlyRootfs": not has(template, Loosening.WRITABLE_ROOT),
        "MaskedPaths": list(MASKED),
        "ReadonlyPaths": list(READ_ONLY),
        "Tmpfs": {tmpfs.path: tmpfs.options(uid) for tmpfs in tmpfs_of(template)},
        "Mounts": [_mount(bind) for bind in binds],
        "Binds": [],
        "VolumesFrom": [],
        "ShmSize": template.shm_bytes,
    }


def _mount(bind: Bind) -> Json:
    options: dict[str, Json] = {"Propagation": bind.propagation}
    if bind.propagation == "rslave" and bind.read_only:
        options["ReadOnlyNonRecursive"] = True  # a workspace that is bound before the start keeps its own flags
    return {
        "Type": "bind",
        "Source": bind.source,
        "Target": bind.target,
        "ReadOnly": bind.read_only,
        "BindOptions": options,
    }


def _limits(template: Template) -> dict[str, Json]:
    ulimits: list[Json] = [{"Name": name, "Soft": n, "Hard": n} for name, n in ulimits_of(template).items()]
    return {
        "Memory": template.memory,
        "MemorySwap": template.memory,
        "CpuPeriod": _CPU_PERIOD,
        "CpuQuota": round(template.cpus * _CPU_PERIOD),
        "CpuShares": template.cpu_shares,
        "PidsLimit": template.pids,
        "OomKillDisable": False,
        "Ulimits": ulimits,
    }
