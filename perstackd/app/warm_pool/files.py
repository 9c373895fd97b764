"""Directories of sandboxes: RUNTIME/s/ID/{gw,slot,id}. Made and deleted in threads of their own, never on the loop.

Deleting never descends into a slot: what is mounted there is somebody's project. It unlinks plain files of `gw` and
`id` and removes empty directories, so a mount that was left behind makes it fail instead of emptying a workspace.
"""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.ids import ID_LENGTH, SandboxId, is_id
from perstackd.ports.sandboxes import SandboxDirectories

T = TypeVar("T")
MAX_SOCKET_PATH: Final = 107  # sun_path of Linux without its last NUL
_THREADS: Final = 4
_HOME: Final = "/home/perstack"  # the tmpfs that every template has


@dataclass(frozen=True, slots=True)
class SandboxPaths:
    """Host paths of one sandbox."""

    root: str
    directories: SandboxDirectories

    @property
    def runner_socket(self) -> str:
        """Where its runner dials."""
        return f"{self.directories.gateway}/runner.sock"

    @property
    def egress_socket(self) -> str:
        """Its way out."""
        return f"{self.directories.gateway}/egress.sock"


class SandboxFiles:
    """Makes, finds and deletes the directories below one runtime directory, which must be absolute.

    Raises:
        PerstackError: INVALID `runtime_directory_invalid` when its socket paths would be over 107 bytes.
    """

    def __init__(self, runtime: str) -> None:
        longest = f"{runtime}/s/{'0' * ID_LENGTH}/gw/runner.sock"
        if not runtime.startswith("/") or len(longest.encode()) > MAX_SOCKET_PATH:
            raise PerstackError(
                Kind.INVALID,
                "runtime_directory_invalid",
                f"the runtime directory {runtime!r} must be absolute and at most "
                f"{MAX_SOCKET_PATH - len(longest.encode()) + len(runtime.encode())} bytes long: "
                f"its socket paths must not be over {MAX_SOCKET_PATH}",
            )
        self._root = Path(runtime) / "s"
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pool-files")

    def of(self, sandbox_id: SandboxId) -> SandboxPaths:
        """The sandbox's paths, whether they are there or not."""
        if not is_id(sandbox_id):
            raise PerstackError(Kind.INVALID, "sandbox_id_invalid", f"{sandbox_id[:40]!r} is not a sandbox id")
        root = f"{self._root}/{sandbox_id}"
        return SandboxPaths(root, SandboxDirectories(f"{root}/gw", f"{root}/slot", f"{root}/id"))

    async def make(self, sandbox_id: SandboxId, uid: int) -> None:
        """Make gateway and identity; the slot is made by Workspaces.prepare. Raises OSError."""
        await self._do(lambda: _make(self._root, self.of(sandbox_id), uid))

    async def delete(self, sandbox_id: SandboxId) -> None:
        """Delete what there is. Idempotent. Raises OSError while something is mounted or unknown in it."""
        await self._do(lambda: _delete(self.of(sandbox_id)))

    async def ids(self) -> tuple[SandboxId, ...]:
        """Sandboxes that have a directory."""
        return await self._do(lambda: _ids(self._root))

    def close(self) -> None:
        """Let the threads end. Does not wait: whoever used them has awaited its calls."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _make(top: Path, paths: SandboxPaths, uid: int) -> None:
    top.mkdir(mode=0o700, parents=True, exist_ok=True)
    Path(paths.root).mkdir(mode=0o700)
    passwd = f"root:x:0:0:root:/nonexistent:/usr/sbin/nologin\nperstack:x:{uid}:{uid}:perstack:{_HOME}:/bin/sh\n"
    group = f"root:x:0:\nperstack:x:{uid}:\n"
    for directory in (Path(paths.directories.gateway), Path(paths.directories.identity)):
        directory.mkdir()
        directory.chmod(0o755)  # the umask must not close them to the sandbox
    for name, text in (("passwd", passwd), ("group", group)):
        file = Path(paths.directories.identity) / name
        file.write_text(text)
        file.chmod(0o644)


def _delete(paths: SandboxPaths) -> None:
    for directory in (Path(paths.directories.gateway), Path(paths.directories.identity)):
        for entry in _entries(directory):
            entry.unlink(missing_ok=True)
        _rmdir(directory)
    slot = Path(paths.directories.slot)
    for entry in _entries(slot):
        _rmdir(entry)
    _rmdir(slot)
    _rmdir(Path(paths.root))


def _ids(top: Path) -> tuple[SandboxId, ...]:
    return tuple(SandboxId(entry.name) for entry in _entries(top) if is_id(entry.name))


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except FileNotFoundError:
        return []


def _rmdir(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        directory.rmdir()
