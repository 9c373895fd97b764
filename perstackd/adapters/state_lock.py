"""One daemon per state directory: an exclusive flock, taken before any socket is made."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perstackd.domain.errors import Kind, PerstackError


@contextmanager
def state_lock(directory: Path) -> Iterator[None]:
    """Hold the lock while the context is open; the kernel lets go of it when the process dies.

    Raises:
        PerstackError: PRECONDITION `state_locked` naming the holder; UNAVAILABLE `state_unusable`.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        message = f"the state directory {directory} cannot be used: {error.strerror}"
        raise PerstackError(Kind.UNAVAILABLE, "state_unusable", message) from error
    try:
        _take(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        message = f"another perstackd (pid {holder}) uses {directory}; stop it, or choose another state_directory"
        raise PerstackError(Kind.PRECONDITION, "state_locked", message) from error
    except OSError as error:
        message = f"the state directory {directory} cannot be locked: {error.strerror}; use a local file system"
        raise PerstackError(Kind.UNAVAILABLE, "state_unusable", message) from error
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        message = f"the state directory {directory} cannot be written: {error.strerror}; make room, or make it writable"
        raise PerstackError(Kind.UNAVAILABLE, "state_unusable", message) from error
