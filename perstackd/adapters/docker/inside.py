"""What the doctor sees inside of its sandbox: the runner's files, and the marker of a late mount.

The machine's kernel shows a runc sandbox's files as they are seen inside. Of gVisor's it shows the sentry's, which is
another root, so the engine is asked. Nothing of a tenant is inside, and nobody but the doctor asks it so.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

import docker.errors

from perstackd.adapters.docker.calls import Client
from perstackd.adapters.workspaces.markers import MARKER

_RUNNER: Final = "opt/perstack/lib/perstack_runner"
_MARKER: Final = f"mnt/workspace/{MARKER}"
_MOST: Final = 32 << 20
"""Bytes of the runner's directory as the engine sends it; it has far less."""


class Inside(Protocol):
    """One running sandbox."""

    def digest(self) -> str:
        """Of the runner, as `digest_of`; empty when there is none."""
        ...

    def marker(self) -> str:
        """What the marker says, empty when it is not there."""
        ...


class HostView:
    """By `root`, /proc/PID/root of its first process."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def digest(self) -> str:
        """See the protocol."""
        runner = self._root / _RUNNER
        return digest_of(runner) if runner.is_dir() else ""

    def marker(self) -> str:
        """See the protocol."""
        path = self._root / _MARKER
        return path.read_text() if path.exists() else ""


class GuestView:
    """By the engine. Raises docker.errors.APIError when it refuses."""

    def __init__(self, client: Client, container: str) -> None:
        self._client = client
        self._container = container

    def digest(self) -> str:
        """See the protocol."""
        try:
            pieces, _ = self._client.get_archive(self._container, f"/{_RUNNER}")
        except docker.errors.NotFound:
            return ""
        archive = io.BytesIO()
        for piece in pieces:
            if archive.tell() > _MOST:
                return ""
            archive.write(piece)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as tar:
            files = [(PurePosixPath(*PurePosixPath(each.name).parts[1:]), each) for each in tar if each.isfile()]
            read = ((path, tar.extractfile(each)) for path, each in files if path.suffix == ".py")
            return _digest((str(path), file.read()) for path, file in read if file is not None)

    def marker(self) -> str:
        """See the protocol."""
        made = self._client.exec_create(self._container, ["cat", f"/{_MARKER}"], stderr=False)
        said: bytes = self._client.exec_start(made["Id"])
        return said.decode(errors="replace")


def digest_of(directory: Path) -> str:
    """Of a program's files, by name and content."""
    return _digest((str(path.relative_to(directory)), path.read_bytes()) for path in directory.rglob("*.py"))


def _digest(files: Iterable[tuple[str, bytes]]) -> str:
    found = hashlib.sha256()
    for name, content in sorted(files, key=lambda each: PurePosixPath(each[0])):
        found.update(f"{name}\0".encode())
        found.update(hashlib.sha256(content).digest())
    return found.hexdigest()
