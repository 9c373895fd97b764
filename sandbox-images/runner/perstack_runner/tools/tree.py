"""The workspace as a tree of descriptors. Every path is walked from its root, one component at a time, without
following a link by name, so that nothing can be swapped between a check and a use; openat2 is denied in a sandbox.

Links inside the workspace are followed by hand, at most 40 times, and never out of it.
"""

import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from perstack_runner.tools.outcome import ToolFailure

MAX_LINKS: Final = 40  # as the kernel: path_resolution(7)
MAX_DEPTH: Final = 64  # descriptors are held on the way, and a sandbox has about a thousand
MAX_PATH: Final = 4096

_STEP: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Place(NamedTuple):
    """A name in an open directory, `.` for itself. No link when it was looked at: open it with O_NOFOLLOW."""

    directory: int
    name: str
    shown: str


class Tree:
    """A workspace. `aliases` are absolute paths by which a model may call its root."""

    def __init__(self, root: str, aliases: tuple[str, ...] = ()) -> None:
        self.root = root
        self._prefixes = tuple(prefix.rstrip("/") for prefix in (root, *aliases))
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the root. Idempotent."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    @contextmanager
    def place(self, path: str, *, make_parents: bool = False, follow: bool = True) -> Iterator[Place]:
        """The directory and the name that `path` means; the name need not exist. follow=False: a last link is itself.

        Raises:
            ToolFailure: path_outside_workspace, invalid_path, too_many_links.
            OSError: a part is missing or is no directory.
        """
        held: list[int] = []
        try:
            name = self._walk(path, held, make_parents=make_parents, follow=follow)
            yield Place(held[-1], name, path)
        finally:
            for descriptor in held:
                os.close(descriptor)

    def _walk(self, path: str, held: list[int], *, make_parents: bool, follow: bool) -> str:
        pending = deque(self._components(path, path))
        held.append(os.dup(self._root))
        links = 0
        while pending:
            name = pending.popleft()
            if name == "..":
                _climb(held, path)
                continue
            if not pending and not follow:
                return name
            descriptor = _step(held[-1], name, last=not pending, make=make_parents)
            if descriptor is None:
                return name
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISLNK(mode):
                target = _read_link(descriptor)
                links += 1
                if links > MAX_LINKS:
                    raise ToolFailure("too_many_links", f"{path}: more than {MAX_LINKS} symbolic links")
                if target.startswith("/"):
                    _climb_to_root(held)
                pending.extendleft(reversed(self._components(target, path)))
            elif not pending:
                os.close(descriptor)
                return name
            else:
                held.append(descriptor)
                _check_directory(mode, len(held), path)
        return "."

    def _components(self, path: str, shown: str) -> list[str]:
        if not path or len(path) > MAX_PATH or "\0" in path:
            raise ToolFailure("invalid_path", f"a path has 1 to {MAX_PATH} characters and no NUL: {shown[:80]!r}")
        try:
            os.fsencode(path)
        except UnicodeEncodeError:
            raise ToolFailure("invalid_path", f"{shown[:80]!r}: half of a surrogate pair, which is no text") from None
        if path.startswith("/"):
            inside = next((p for p in self._prefixes if path == p or path.startswith(p + "/")), None)
            if inside is None:
                raise _outside(shown)
            path = path[len(inside) :]
        return [part for part in path.split("/") if part not in ("", ".")]

    def open_file(self, place: Place, flags: int, mode: int = 0o666) -> int:
        """Open a regular file; a FIFO, socket or device is refused and never waited for.

        Raises:
            ToolFailure: not_a_file, is_a_directory.
            OSError: as open(2); ELOOP when it has become a link meanwhile.
        """
        descriptor = os.open(place.name, flags | _FILE, mode, dir_fd=place.directory)
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISREG(kind):
            return descriptor
        os.close(descriptor)
        if stat.S_ISDIR(kind):
            raise ToolFailure("is_a_directory", f"{place.shown}: this is a directory; use listDirectory")
        raise ToolFailure("not_a_file", f"{place.shown}: not a regular file")

    def open_directory(self, place: Place) -> int:
        """Open a directory for listing. Raises OSError as open(2)."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(place.name, flags, dir_fd=place.directory)


def _step(directory: int, name: str, *, last: bool, make: bool) -> int | None:
    try:
        return os.open(name, _STEP, dir_fd=directory)
    except FileNotFoundError:
        if last:
            return None
        if not make:
            raise
    with suppress(FileExistsError):  # another call made it meanwhile, which is as good
        os.mkdir(name, 0o777, dir_fd=directory)
    return os.open(name, _STEP, dir_fd=directory)


def _read_link(descriptor: int) -> str:
    try:
        return os.readlink("", dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _climb(held: list[int], shown: str) -> None:
    if len(held) == 1:
        raise _outside(shown)
    os.close(held.pop())


def _climb_to_root(held: list[int]) -> None:
    while len(held) > 1:
        os.close(held.pop())


def _check_directory(mode: int, depth: int, shown: str) -> None:
    if not stat.S_ISDIR(mode):
        raise ToolFailure("not_a_directory", f"{shown}: a part of this path is not a directory")
    if depth > MAX_DEPTH:
        raise ToolFailure("invalid_path", f"{shown[:80]}...: more than {MAX_DEPTH} directories deep")


def _outside(shown: str) -> ToolFailure:
    return ToolFailure("path_outside_workspace", f"{shown}: outside the workspace; give a path relative to its root")
