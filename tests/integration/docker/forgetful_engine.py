"""A Docker engine of a test's own that forgets containers, as one does whose directory was lost: what it keeps of them
is deleted while it is dead. Their processes, shims and cgroups live on.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from perstackd.adapters.docker.cgroups import end_cgroups, remove_cgroup
from tests.own_engine import LIVE_RESTORE, OwnEngine, served


class ForgetfulEngine(OwnEngine):
    """Started by `forgetful_engine`. Its containers live on while it is dead."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, [LIVE_RESTORE])
        self._forgotten: list[str] = []

    def forget(self, *container_ids: str) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)
        self._end_processes("containerd")
        for path in (self.home / "pid", self.home / "exec/containerd/containerd.pid"):
            path.unlink(missing_ok=True)  # where nobody reaps, a dead one looks as if it ran
        self._forgotten += container_ids
        for container_id in container_ids:
            shutil.rmtree(self.home / "data/containers" / container_id)
        self.start()

    def close(self) -> None:
        super().close()
        for container_id in self._forgotten:
            end_cgroups(cgroups_of(container_id), container_id)
        self._end_processes("")
        for path in (path for container_id in self._forgotten for path in cgroups_of(container_id)):
            remove_cgroup(path)

    def _end_processes(self, program: str) -> None:
        """Of this engine, told by what only they have: its paths. They may outlive an engine that is killed."""
        own = f"{self.home}/exec/containerd/"
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                descriptor = os.pidfd_open(int(entry.name))
            except ProcessLookupError:
                continue
            try:
                called, *rest = _arguments(entry) or [""]
                if called.endswith(program) and any(part.startswith(own) for part in rest):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            except ProcessLookupError:
                continue
            finally:
                os.close(descriptor)


@contextmanager
def forgetful_engine(images: Sequence[str] = ()) -> Iterator[ForgetfulEngine]:
    """It runs; all that it made is gone afterwards, the forgotten as well."""
    with served(ForgetfulEngine(Path(tempfile.mkdtemp(prefix="fe-", dir="/tmp"))), images) as engine:
        yield engine


def _arguments(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def cgroups_of(container_id: str) -> tuple[str, ...]:
    """Where this machine's engines have a container's cgroups, of every hierarchy."""
    found = [*Path("/sys/fs/cgroup").glob(f"*/docker/{container_id}"), Path("/sys/fs/cgroup/docker", container_id)]
    return tuple(str(path) for path in found if path.is_dir())
