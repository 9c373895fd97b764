"""Which names and links of an archive are taken. Pure.

A link is judged by what the archive itself says, never by what lies in the workspace: it may go up from its own place
to the archive's root and no further, and only at its beginning. A `..` behind a name could stand behind another link,
and then leads somewhere else than it says.
"""

import os
from typing import Final

from perstackd.adapters.workspaces.tar_reader import Entry, shown
from perstackd.domain.errors import Kind, PerstackError

MAX_DEPTH: Final = 64
_MAX_NAME: Final = 255
_MAX_PATH: Final = 3000  # with the workspace's own directory in front it stays below PATH_MAX


def parts_of(path: bytes) -> tuple[bytes, ...]:
    """The names of a relative path; none for the root.

    Raises:
        PerstackError: DENIED `archive_refused`.
    """
    if path.startswith(b"/"):
        raise refused(path, "is an absolute path; name it from the archive's root")
    parts = tuple(part for part in path.split(b"/") if part not in {b"", b"."})
    if b".." in parts:
        raise refused(path, "has a .. in it; name it from the archive's root")
    if b"\0" in path:
        raise refused(path, "has a zero byte")
    if len(path) > _MAX_PATH or len(parts) > MAX_DEPTH:
        raise refused(path, f"is longer than {_MAX_PATH} bytes or deeper than {MAX_DEPTH} directories")
    if any(len(part) > _MAX_NAME for part in parts):
        raise refused(path, f"has a name of more than {_MAX_NAME} bytes")
    return parts


def prefix_of(path: str) -> tuple[bytes, ...]:
    """The names of the directory that an archive goes into.

    Raises:
        PerstackError: INVALID `workspace_invalid`.
    """
    try:
        return parts_of(os.fsencode(path))
    except PerstackError as error:
        message = f"{path[:200]!r} is no directory of a workspace: write a plain relative path, as in reports/47"
        raise PerstackError(Kind.INVALID, "workspace_invalid", message) from error


def checked_link(entry: Entry, depth: int) -> bytes:
    """Where a symbolic link leads that lies in a directory `depth` below the archive's root.

    Raises:
        PerstackError: DENIED `archive_refused` when it leaves the tree.
    """
    target = entry.target
    parts = [part for part in target.split(b"/") if part not in {b"", b"."}]
    up = next((place for place, part in enumerate(parts) if part != b".."), len(parts))
    if not target or b"\0" in target or len(target) > _MAX_PATH:
        raise refused(entry.path, "is a symbolic link to nowhere")
    if target.startswith(b"/") or up > depth or b".." in parts[up:]:
        raise refused(entry.path, f"is a symbolic link to {shown(target)}, which leaves the archive's tree")
    return target


def refused(path: bytes, what: str) -> PerstackError:
    """The archive is not taken, because of this entry."""
    return PerstackError(
        Kind.DENIED, "archive_refused", f"the archive's entry {shown(path)} {what}; nothing was unpacked"
    )
