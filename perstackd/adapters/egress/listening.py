"""Listening sockets on the file system, one in each sandbox's own directory. Blocking: to be called on a thread."""

import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from perstackd.domain.errors import Kind, PerstackError

MAX_PATH: Final = 107
_BACKLOG: Final = 128


def bind(path: str) -> socket.socket:
    """A listening, non-blocking Unix socket at `path`, mode 0666: only its sandbox has the directory.

    A socket that an earlier process left there is replaced; any other file is not.

    Raises:
        PerstackError: INVALID `socket_path_too_long`; PRECONDITION `egress_socket_failed`.
    """
    size = len(path.encode())
    if size > MAX_PATH:
        raise PerstackError(
            Kind.INVALID,
            "socket_path_too_long",
            f"the socket path {path!r} has {size} bytes, the kernel takes {MAX_PATH}: use a shorter runtime directory",
        )
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        remove(path)
        listening.bind(path)
        Path(path).chmod(0o666)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise PerstackError(
            Kind.PRECONDITION,
            "egress_socket_failed",
            f"no socket can be made at {path}: {error.strerror}; the sandbox's directory must exist and be writable",
        ) from error
    return listening


def remove(path: str) -> None:
    """Remove the socket at `path`; anything that is not a socket stays. Idempotent."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(Path(path).lstat().st_mode):
            Path(path).unlink()
