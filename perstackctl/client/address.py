"""Where the daemon listens, and why it cannot be reached there.

Only Unix sockets: the kernel decides who may open one. Nothing here talks gRPC.
"""

import errno
import grp
import os
import pwd
import socket
import stat
from pathlib import Path
from typing import Final

from perstackctl.client.errors import (
    DaemonDownError,
    InvalidError,
    SocketForbiddenError,
    SocketMissingError,
    UnreachableError,
)

DEFAULT_ADDRESS: Final = "unix:/run/perstackd/perstackd.sock"
# sun_path of sockaddr_un holds 108 bytes with its final zero, see unix(7).
_LONGEST: Final = 107
_PROBE_SECONDS: Final = 2.0


def socket_path(address: str) -> Path:
    """The absolute path that an address names: `unix:PATH`, `unix://PATH` or a bare path.

    Raises:
        InvalidError: reason `address_invalid`.
    """
    text = address.removeprefix("unix:")
    if text.startswith("//"):
        text = text[2:]
    if not text or "\0" in text or ("/" not in text and address == text):
        raise InvalidError(
            f"the address {address!r} is not a Unix socket; write unix:/PATH or a path with a slash, "
            f"as in {DEFAULT_ADDRESS}",
            reason="address_invalid",
        )
    # Not Path.resolve: links are the kernel's to follow, and an absolute path must cost no look at the disk.
    path = Path(os.path.normpath(text if text.startswith("/") else Path.cwd() / text))
    if len(os.fsencode(path)) > _LONGEST:
        raise InvalidError(
            f"the socket path {str(path)!r} is longer than the {_LONGEST} bytes that Unix sockets allow",
            reason="address_invalid",
        )
    return path


def diagnose(path: Path) -> UnreachableError | None:
    """Why nobody answers at `path`, or None when a connection is accepted. Blocks for at most 2 s."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return _from_errno(path, error)
    if not stat.S_ISSOCK(mode):
        return SocketMissingError(f"{path} is not a socket; is --address right?")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except OSError as error:
            return _from_errno(path, error)
    return None


def _from_errno(path: Path, error: OSError) -> UnreachableError:
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return SocketMissingError(
                f"there is no daemon at {path}: the socket does not exist. Start it (systemctl start perstackd), or "
                "name its socket with --address or PERSTACK_ADDRESS"
            )
        case errno.EACCES | errno.EPERM:
            return SocketForbiddenError(_forbidden(path))
        case errno.ECONNREFUSED:
            return DaemonDownError(
                f"the daemon at {path} is down: the socket is there, but nobody listens. Start it again "
                "(systemctl restart perstackd) and see its log (journalctl -u perstackd)"
            )
        case _:
            return UnreachableError(
                f"the daemon at {path} does not take connections: {error.strerror or error}. "
                "See its log (journalctl -u perstackd)"
            )


def _forbidden(path: Path) -> str:
    who = _user(os.geteuid())
    barrier = _barrier(path)
    if barrier is None:
        return f"{who} may not open {path}. Ask its owner for access, or use sudo"
    place, info = barrier
    group_bit = stat.S_IWGRP if stat.S_ISSOCK(info.st_mode) else stat.S_IXGRP
    if not info.st_mode & group_bit or info.st_gid in {os.getegid(), *os.getgroups()}:
        return f"{who} may not open {path}: only {_user(info.st_uid)} may pass {place}. Use sudo, or ask for access"
    group = _group(info.st_gid)
    return (
        f"{who} may not open {path}: join the group that owns it, {group} (sudo usermod -aG {group} {who}), and log in "
        "again. Whoever may open this socket is admin of the daemon"
    )


def _barrier(path: Path) -> tuple[Path, os.stat_result] | None:
    """The first thing on the way that keeps this user out, as far as it can be seen."""
    for directory in reversed(path.parents):
        try:
            info = directory.stat()
        except OSError:
            return None
        if not os.access(directory, os.X_OK, effective_ids=True):
            return directory, info
    return path, path.stat()


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
