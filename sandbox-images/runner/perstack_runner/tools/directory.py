"""Directories: listing, making, deleting."""

import heapq
import os
import stat
import time
from itertools import count
from typing import Any, Final

from perstack_runner.tools.file_entry import described
from perstack_runner.tools.outcome import Outcome, ToolFailure
from perstack_runner.tools.tree import MAX_DEPTH, Place, Tree

MAX_ITEMS: Final = 2_000
DELETE_SECONDS: Final = 30.0


def list_items(tree: Tree, arguments: dict[str, Any]) -> Outcome:
    """The first 2,000 entries by name; `truncated` says that there are more."""
    path = arguments["path"]
    with tree.place(path) as place:
        descriptor = tree.open_directory(place)
    try:
        seen = count()
        with os.scandir(descriptor) as entries:  # which may be millions
            names = heapq.nsmallest(MAX_ITEMS, (entry.name for entry, _ in zip(entries, seen, strict=False)))
        items = [item for name in names if (item := _item(descriptor, name)) is not None]
    finally:
        os.close(descriptor)
    value: dict[str, Any] = {"path": path, "items": items}
    if (entries_in_all := next(seen)) > MAX_ITEMS:
        value["truncated"] = f"{entries_in_all} entries, the first {MAX_ITEMS} are shown; use findFiles for the rest"
    return Outcome(value)


def _item(directory: int, name: str) -> dict[str, Any] | None:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None  # deleted since the listing
    return {"name": name, **described(found)}


def create(tree: Tree, arguments: dict[str, Any]) -> Outcome:
    """Make a directory and its parents; one that exists is no error."""
    path = arguments["path"]
    with tree.place(path, make_parents=True) as place:
        try:
            os.mkdir(place.name, 0o777, dir_fd=place.directory)
        except FileExistsError:
            os.close(tree.open_directory(place))  # NotADirectoryError when it is a file
    return Outcome({"path": path})


def delete(tree: Tree, arguments: dict[str, Any]) -> Outcome:
    """Delete a directory; links in it are deleted, never followed."""
    path = arguments["path"]
    with tree.place(path, follow=False) as place:
        if place.name == ".":
            raise ToolFailure("permission_denied", f"{path}: the workspace itself cannot be deleted")
        if arguments.get("recursive", False):
            _delete_tree(place, time.monotonic() + DELETE_SECONDS, MAX_DEPTH)
        os.rmdir(place.name, dir_fd=place.directory)
    return Outcome({"path": path})


def _delete_tree(place: Place, deadline: float, depth: int) -> None:
    """Empty a directory. Own walk: shutil.rmtree has neither a bound of time nor of depth."""
    if time.monotonic() > deadline or depth == 0:
        raise ToolFailure("too_large", f"{place.shown}: too many or too deep entries; delete it with exec")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(place.name, flags, dir_fd=place.directory)
    try:
        for name in os.listdir(descriptor):  # noqa: PTH208
            if stat.S_ISDIR(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode):
                _delete_tree(Place(descriptor, name, place.shown), deadline, depth - 1)
                os.rmdir(name, dir_fd=descriptor)
            else:
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
