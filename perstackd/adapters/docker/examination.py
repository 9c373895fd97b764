"""The engine for the doctor: what it is, and a sandbox that is started, judged, shown a late mount and removed.

Blocking, beside the adapter of the daemon: an examination must not wait for, or disturb, the daemon's own calls. The
sandbox runs `sleep` in the template's image, below directories of its own, with a label that no daemon looks for.
"""

import asyncio
import contextlib
import os
import secrets
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final

import docker
import docker.errors

from perstackd.adapters.docker.calls import Client
from perstackd.adapters.docker.engine import read_profile
from perstackd.adapters.docker.failures import detail, is_silence, silence_cause
from perstackd.adapters.docker.hardening import MASKED, READ_ONLY, container_name, container_options, profile_for
from perstackd.adapters.docker.inside import GuestView, HostView, Inside, digest_of
from perstackd.adapters.docker.kernel import observe
from perstackd.adapters.docker.posture import Expected, compare
from perstackd.adapters.docker.runtimes import check_runtime
from perstackd.adapters.docker.sentry import observe_sentry
from perstackd.adapters.doctor.subject import Subject
from perstackd.adapters.workspaces.host import HostWorkspaces
from perstackd.adapters.workspaces.settings import HostSettings
from perstackd.adapters.workspaces.userns import UserNamespaces
from perstackd.domain.checkup import Finding, error, good, warning
from perstackd.domain.errors import PerstackError
from perstackd.domain.ids import SandboxId
from perstackd.domain.loosening import costs
from perstackd.domain.sandbox import Posture, SandboxRecord, SandboxState, Template
from perstackd.ports.sandboxes import SandboxDirectories

_AREA: Final = "engine"
_LEAST: Final = (20, 10)
_STORAGE: Final = frozenset({"overlay2", "overlayfs", "fuse-overlayfs", "btrfs", "zfs"})
_LIMITS: Final = ("MemoryLimit", "SwapLimit", "PidsLimit", "CpuCfsQuota", "CPUShares")
_LABEL: Final = "doctor"


def examine(subject: Subject) -> Iterator[Finding]:
    """All of it; when the engine does not answer that is the only finding, beside what templates leave out."""
    yield from _loosened(subject.templates)
    try:
        client = _client(subject)
    except (OSError, docker.errors.DockerException) as failure:
        found = silence_cause(failure) if is_silence(failure) else str(failure)
        shut_out = isinstance(failure, PermissionError)
        remedy = "run the doctor as root" if shut_out else "start it (systemctl start docker), or set engine.url"
        yield error(_AREA, "reachable", f"{subject.engine_url}: {found}", remedy)
        return
    try:
        info = client.info()
        yield from _settings(info)
        yield from _runtimes(info, subject.templates)
        for template in subject.templates:
            yield from _template(client, subject, template)
    finally:
        client.close()


def runtimes(subject: Subject) -> Iterator[Finding]:
    """Of the templates' runtimes alone; when the engine does not answer that is the only finding."""
    try:
        client = _client(subject)
    except (OSError, docker.errors.DockerException) as failure:
        yield warning(_AREA, "reachable", f"{subject.engine_url}: {failure}", "start it to have its runtimes looked at")
        return
    try:
        yield from _runtimes(client.info(), subject.templates)
    finally:
        client.close()


def _client(subject: Subject) -> Client:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:  # tells precisely what is wrong with the socket
        probe.settimeout(subject.engine_seconds)
        probe.connect(subject.engine_url.removeprefix("unix://"))
    client = docker.APIClient(subject.engine_url, version="auto", timeout=ceil(subject.engine_seconds))
    client.trust_env = False
    return client


def _loosened(templates: tuple[Template, ...]) -> Iterator[Finding]:
    for template in templates:
        for name, cost in costs(template):
            remedy = f"take it out of templates.{template.name}.exceptions unless its programs need it"
            yield warning(f"template {template.name}", f"exception {name}", cost, remedy)


# --- what it says ---------------------------------------------------------------------------------------------------
def _settings(info: dict[str, Any]) -> Iterator[Finding]:
    version = str(info.get("ServerVersion", ""))
    numbers = tuple(int(part) for part in version.partition("+")[0].split(".")[:2] if part.isdigit())
    if numbers < _LEAST:
        yield error(_AREA, "version", version or "unknown", "it must be 20.10 or newer: upgrade the engine")
    else:
        yield good(_AREA, "version", version)
    security = [str(option) for option in info.get("SecurityOptions") or []]
    yield from _isolation(security)
    missing = [name for name in _LIMITS if info.get(name) is False]
    if missing:
        yield error(
            _AREA, "limits", f"it cannot set {', '.join(missing)}", "boot with cgroup_enable=memory swapaccount=1"
        )
    else:
        yield good(_AREA, "limits", f"cgroup version {info.get('CgroupVersion', 1)}, driver {info.get('CgroupDriver')}")
    storage = str(info.get("Driver", ""))
    if storage in _STORAGE:
        yield good(_AREA, "storage", f"{storage} in {info.get('DockerRootDir')}")
    else:
        yield warning(_AREA, "storage", storage, "starts are slow and take much room: use overlay2")
    if info.get("LiveRestoreEnabled"):
        yield good(_AREA, "live-restore", "on: sandboxes outlive a restart of the engine")
    else:
        remedy = 'every restart of the engine ends all sandboxes: set "live-restore": true in its daemon.json'
        yield warning(_AREA, "live-restore", "off", remedy)


def _isolation(security: list[str]) -> Iterator[Finding]:
    for name in ("rootless", "userns"):
        if any(option.startswith(f"name={name}") for option in security):
            remedy = "uids of sandboxes and late binding need an engine with the machine's own uids: use a rootful one"
            yield error(_AREA, name, "on", remedy)
        else:
            yield good(_AREA, name, "off")
    if not any(option.startswith("name=seccomp") for option in security):
        yield error(_AREA, "seccomp", "off", "use an engine that is built with seccomp")
    if Path("/sys/module/apparmor/parameters/enabled").exists():
        if any(option.startswith("name=apparmor") for option in security):
            yield good(_AREA, "apparmor", "on")
        else:
            yield warning(
                _AREA,
                "apparmor",
                "the machine has it, the engine does not use it",
                "install apparmor, restart the engine",
            )


def _runtimes(info: dict[str, Any], templates: tuple[Template, ...]) -> Iterator[Finding]:
    for runtime in sorted({template.runtime for template in templates}):
        try:
            yield good(_AREA, f"runtime {runtime}", check_runtime(runtime, info))
        except PerstackError as failure:
            found, _, remedy = failure.message.partition("; ")
            yield error(_AREA, f"runtime {runtime}", found, remedy)


# --- what it does ---------------------------------------------------------------------------------------------------
def _template(client: Client, subject: Subject, template: Template) -> Iterator[Finding]:
    area = f"template {template.name}"
    try:
        image_id = str(client.inspect_image(template.image)["Id"])
    except docker.errors.NotFound:
        remedy = "build it with `make images`, or pull it"
        yield error(area, "image", f"the engine has no {template.image}", remedy)
        return
    yield good(area, "image", f"{template.image} is {image_id.removeprefix('sha256:')[:12]}")
    if os.geteuid() != 0:
        yield warning(area, "sandbox", "not tried", "run the doctor as root")
        return
    try:
        with _trial(client, subject, template, image_id) as trial:
            yield from trial.findings(area)
    except (PerstackError, OSError, docker.errors.APIError) as failure:
        found = detail(failure) if isinstance(failure, docker.errors.APIError) else str(failure)
        yield error(area, "sandbox", found, "see the engine's log; perstackd's pool will halt with the same")


@dataclass(frozen=True, slots=True)
class _Trial:
    """A sandbox that runs, and where a workspace would be mounted for it."""

    inside: Inside
    workspaces: HostWorkspaces
    record: SandboxRecord
    slot: str
    posture: Posture

    def findings(self, area: str) -> Iterator[Finding]:
        count = len(self.posture.checks)
        if self.posture.ok:
            yield good(area, "posture", f"{count} of {count} checks as the template asks")
        else:
            differing = ", ".join(f"{check.name} is {check.actual}" for check in self.posture.failed)
            yield error(area, "posture", differing, "the engine forgets what it is asked for: upgrade it")
        yield self._runner(area)
        yield self._late_binding(area)

    def _runner(self, area: str) -> Finding:
        ours = _own_runner()
        if ours is None:
            return warning(
                area, "version", "cannot be told: no runner is installed beside perstackd", "install it whole"
            )
        found = self.inside.digest()
        if not found:
            remedy = "build it FROM perstack/base or perstack/full, and keep their entry point"
            return error(area, "version", "the image has no runner", remedy)
        if found != digest_of(ours):
            remedy = "its runner is not of this version: build the images anew with `make images`"
            return error(area, "version", "another runner than this perstackd's", remedy)
        return good(area, "version", "its runner is this perstackd's")

    def _late_binding(self, area: str) -> Finding:
        remedy = "perstackd and the engine must share one mount namespace: see docs/operations.md, What it needs"
        token = asyncio.run(self.workspaces.prove(self.slot, self.record.uid))
        seen = self.inside.marker()
        asyncio.run(self.workspaces.detach(self.record.id, self.slot))
        if seen != token:
            return error(area, "late binding", "a marker that is mounted on the host is not seen inside", remedy)
        if self.inside.marker():
            return error(area, "late binding", "a marker that was unmounted is still seen inside", remedy)
        return good(area, "late binding", "a marker came and went")


@contextlib.contextmanager
def _trial(client: Client, subject: Subject, template: Template, image_id: str) -> Iterator[_Trial]:
    record = SandboxRecord(
        SandboxId(f"DOCTOR{secrets.token_hex(10).upper()}"),
        template.name,
        SandboxState.STARTING,
        subject.sandbox_uids[1],
        0,
        runtime=template.runtime,
        image_id=image_id,
    )
    with _places(subject) as (workspaces, runtime):
        directories = _directories(runtime, record.uid)
        asyncio.run(workspaces.prepare(directories.slot, record.uid))
        name, seccomp = container_name(record.id), profile_for(template, read_profile(subject.seccomp_path))
        options = container_options(
            record,
            template,
            directories,
            image_id=image_id,
            seccomp=seccomp,
            daemon_id=_LABEL,
        )
        try:
            client.create_container_from_config({**options, "Entrypoint": ["sleep"], "Cmd": ["60"]}, name)
            client.start(name)
            inspected = client.inspect_container(name)
            pid = int(inspected["State"]["Pid"])
            expected = Expected(image_id, seccomp, directories)
            seen = observe_sentry(pid) if template.runtime == "runsc" else observe(pid, (*MASKED, *READ_ONLY))
            posture = compare(record, template, expected, inspected, seen)
            inside = GuestView(client, name) if template.runtime == "runsc" else HostView(Path(f"/proc/{pid}/root"))
            yield _Trial(inside, workspaces, record, directories.slot, posture)
        finally:
            with contextlib.suppress(docker.errors.NotFound):
                client.remove_container(name, force=True, v=True)


@contextlib.contextmanager
def _places(subject: Subject) -> Iterator[tuple[HostWorkspaces, Path]]:
    """Directories beside the daemon's own, on the same file systems; all of it goes."""
    near = (subject.runtime.parent, subject.state)
    above = [next(each for each in (path, *path.parents) if each.is_dir()) for path in near]
    with contextlib.ExitStack() as places:
        runtime, state = (
            Path(places.enter_context(tempfile.TemporaryDirectory(prefix="pd-", dir=each))) for each in above
        )
        runtime.chmod(0o755)  # a sandbox looks into its slot
        namespaces = UserNamespaces(subject.spare_uid)
        namespaces.start()
        places.callback(namespaces.close)
        settings = HostSettings(state=str(state), runtime=str(runtime), managed_uid=subject.managed_uid)
        workspaces = HostWorkspaces(settings, namespaces)
        places.callback(workspaces.cleanup_root)
        places.callback(workspaces.shutdown)
        workspaces.prepare_root()
        yield workspaces, runtime


def _directories(runtime: Path, uid: int) -> SandboxDirectories:
    gateway, slot, identity = (runtime / "s" / name for name in ("gw", "slot", "id"))
    for directory in (gateway, identity):
        directory.mkdir(mode=0o755, parents=True)
    (identity / "passwd").write_text(f"sandbox:x:{uid}:{uid}::/home/perstack:/bin/sh\n")
    (identity / "group").write_text(f"sandbox:x:{uid}:\n")
    return SandboxDirectories(str(gateway), str(slot), str(identity))


def _own_runner() -> Path | None:
    """The runner that belongs to this perstackd: of the installed package, else of the source tree."""
    top = Path(__file__).parents[3]
    places = (top / "perstack_runner", top / "sandbox-images/runner/perstack_runner")
    return next((place for place in places if place.is_dir()), None)
