"""A file as a whole: what it is, moving it, deleting it, showing an image."""

import ctypes
import errno
import os
import stat
import time
from typing import Any, Final

from perstack_runner.messages import Blob
from perstack_runner.tools.outcome import Outcome, ToolFailure, from_os_error
from perstack_runner.tools.tree import Place, Tree

IMAGE_BYTES: Final = 15 << 20
_RENAME_NOREPLACE: Final = 1  # renameat2(2)
_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)
_libc = ctypes.CDLL(None, use_errno=True)


def info(tree: Tree, arguments: dict[str, Any]) -> Outcome:
    """What is at a path; a path with nothing is no error."""
    path = arguments["path"]
    try:
        with tree.place(path) as place:
            found = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    except FileNotFoundError:
        return Outcome({"exists": False, "path": path})
    return Outcome({"exists": True, "path": path, **described(found), "permissions": stat.filemode(found.st_mode)})


def described(found: os.stat_result) -> dict[str, Any]:
    """Type, size in bytes and modification time (RFC 3339, UTC) of a stat result."""
    modified = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(max(found.st_mtime, 0), 2**40)))
    return {"type": kind(found.st_mode), "size": found.st_size, "modified": modified}


def kind(mode: int) -> str:
    """`file`, `directory`, `symlink` or `other`."""
    names = ((stat.S_ISREG, "file"), (stat.S_ISDIR, "directory"), (stat.S_ISLNK, "symlink"))
    return next((name for test, name in names if test(mode)), "other")


def move(tree: Tree, arguments: dict[str, Any]) -> Outcome:
    """Rename without replacing; a link is moved, not what it points to."""
    source, destination = arguments["source"], arguments["destination"]
    with tree.place(source, follow=False) as place:  # before directories are made for nothing
        os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    with (
        tree.place(source, follow=False) as from_place,
        tree.place(destination, make_parents=True, follow=False) as to_place,
    ):
        for place in (from_place, to_place):
            _refuse_root(place)
        try:
            rename_without_replacing(from_place, to_place)
        except FileExistsError as error:
            raise from_os_error(error, destination) from None
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise ToolFailure("invalid_arguments", f"{source}: cannot be moved into itself") from None
    return Outcome({"source": source, "destination": destination})


def rename_without_replacing(source: Place, destination: Place) -> None:
    """renameat2(2) with RENAME_NOREPLACE. Raises OSError, FileExistsError when the destination is there."""
    names = (os.fsencode(source.name), os.fsencode(destination.name))
    if _libc.renameat2(source.directory, names[0], destination.directory, names[1], _RENAME_NOREPLACE) == 0:
        return
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def delete(tree: Tree, arguments: dict[str, Any]) -> Outcome:
    """Unlink a file or a link. Raises ToolFailure is_a_directory."""
    path = arguments["path"]
    with tree.place(path, follow=False) as place:
        _refuse_root(place)
        if stat.S_ISDIR(os.stat(place.name, dir_fd=place.directory, follow_symlinks=False).st_mode):
            raise ToolFailure("is_a_directory", f"{path}: this is a directory; use deleteDirectory")
        os.unlink(place.name, dir_fd=place.directory)
    return Outcome({"path": path})


def read_image(tree: Tree, arguments: dict[str, Any]) -> Outcome:
    """An image as an attachment; its type is read from its first bytes, not from its name."""
    path = arguments["path"]
    with tree.place(path) as place:
        descriptor = tree.open_file(place, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        content = file.read(IMAGE_BYTES + 1) if size <= IMAGE_BYTES else b""
    if max(size, len(content)) > IMAGE_BYTES:
        message = f"{path}: {size / (1 << 20):.1f} MiB, and images are shown up to {IMAGE_BYTES >> 20} MiB"
        raise ToolFailure("file_too_large", f"{message}; make it smaller with exec")
    media_type = _image_type(content)
    if media_type is None:
        raise ToolFailure("not_an_image", f"{path}: neither png, jpeg, gif nor webp")
    return Outcome({"path": path, "mimeType": media_type, "size": len(content)}, Blob(content, media_type))


def _image_type(content: bytes) -> str | None:
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((media_type for signature, media_type in _SIGNATURES if content.startswith(signature)), None)


def _refuse_root(place: Place) -> None:
    if place.name == ".":
        raise ToolFailure("is_a_directory", f"{place.shown}: the workspace itself stays where it is")
