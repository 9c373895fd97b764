"""What tests with a real engine need: a shared mount for slots, an image that just waits, and a clean end."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from perstackd.adapters.docker.calls import CallLimits
from perstackd.adapters.docker.engine import EngineSettings
from perstackd.adapters.docker.hardening import LABEL_DAEMON
from perstackd.domain.ids import SandboxId
from perstackd.domain.sandbox import SandboxRecord, SandboxState, Template
from perstackd.ports.sandboxes import SandboxDirectories

REPOSITORY = Path(__file__).resolve().parents[3]
SECCOMP = REPOSITORY / "sandbox-images/seccomp/profile.json"
DAEMON_ID = f"test-docker-{os.getpid()}"
IMAGE = f"perstack-test-docker:{os.getpid()}"
# An image with a first process that waits and takes SIGTERM, whatever the arguments.
DOCKERFILE = 'FROM {origin}\nENTRYPOINT ["/usr/bin/tini", "--", "sh", "-c", "exec sleep infinity"]\n'


def docker(*arguments: str, text: str = "") -> str:
    """The docker command's output; a failing one fails the test with what it said."""
    command = ["docker", *arguments]
    done = subprocess.run(command, check=False, input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"docker {arguments[0]} failed: {done.stderr.strip()}"
    return done.stdout.strip()


@dataclass
class Rig:
    """Directories, records and templates for one test; numbers its sandboxes."""

    root: Path
    made: int = 0
    settings: EngineSettings = field(
        default_factory=lambda: EngineSettings(
            daemon_id=DAEMON_ID,
            seccomp_path=str(SECCOMP),
            limits=CallLimits(call_seconds=20, start_seconds=60, remove_seconds=30),
        )
    )

    def template(self, **changes: object) -> Template:
        """A small template of the waiting image."""
        return Template(name="test", image=IMAGE, memory=384 << 20, **changes)  # type: ignore[arg-type]

    def record(self) -> SandboxRecord:
        """The row of a new sandbox, with a uid and an id of its own."""
        self.made += 1
        sandbox_id = SandboxId(f"0{os.getpid():010d}{self.made:015d}")
        return SandboxRecord(sandbox_id, "test", SandboxState.STARTING, 200_000 + self.made, created_at=0)

    def directories(self, record: SandboxRecord) -> SandboxDirectories:
        """The host's side of a sandbox, as the pool makes it."""
        top = self.root / str(record.id)
        gateway, slot, identity = top / "gw", top / "slot", top / "identity"
        for path in (gateway, slot / "workspace", identity):
            path.mkdir(parents=True, exist_ok=True)
        (identity / "passwd").write_text(f"perstack:x:{record.uid}:{record.uid}::/home/perstack:/bin/sh\n")
        (identity / "group").write_text(f"perstack:x:{record.uid}:\n")
        return SandboxDirectories(str(gateway), str(slot), str(identity))


@contextmanager
def shared_directory(path: Path) -> Iterator[Path]:
    """A directory on a shared mount of its own, so that what is mounted below it reaches the sandboxes."""
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(path)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(path)], check=True)
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        path.rmdir()


def remove_containers() -> None:
    """Remove whatever a test left behind."""
    found = docker("ps", "--all", "--quiet", "--filter", f"label={LABEL_DAEMON}={DAEMON_ID}").split()
    if found:
        docker("rm", "--force", "--volumes", *found)


@contextmanager
def waiting_image(origin: str = "perstack/base:latest", tag: str = IMAGE) -> Iterator[str]:
    """The image of `Rig.template`, or one of another origin, for as long as it is needed."""
    docker("build", "--quiet", "--tag", tag, "-", text=DOCKERFILE.format(origin=origin))
    try:
        yield tag
    finally:
        remove_containers()
        docker("rmi", "--force", tag)
