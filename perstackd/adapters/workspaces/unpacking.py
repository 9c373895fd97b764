"""An archive on its way into a workspace, all or nothing.

It is unpacked beside the workspace, in a directory that no sandbox sees, so that nothing races with it; what is wrong
with the archive shows there. Then its entries are renamed into the workspace, without following a link: whatever is
there is replaced by name, and where both have a directory the two are merged. Blocking.
"""

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.clearing import clear
from perstackd.adapters.workspaces.entry_names import checked_link, parts_of, prefix_of, refused
from perstackd.adapters.workspaces.merging import merge
from perstackd.adapters.workspaces.named import STAGING, Held
from perstackd.adapters.workspaces.tar_reader import Entry, EntryKind, TarReader, shown
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.workspace import Quota, Unpacked

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Unpacking:
    """`feed` the archive, then `finish`; `close` in any case. `most` bounds content and entries."""

    def __init__(self, held: Held, prefix: str, most: Quota, owner: int) -> None:
        self._held = held
        self._most = most
        self._owner = owner
        self._reader = TarReader()
        self._file = -1
        self._left = 0
        self._stamp: tuple[int, int] = (0, 0)
        self.files = self.bytes = 0
        self._name = f"{STAGING}{secrets.token_hex(8)}"
        self._prefix = prefix_of(prefix)
        os.mkdir(self._name, 0o700, dir_fd=held.outer)
        self._root = syscalls.openat2(held.outer, self._name, syscalls.DIRECTORY, syscalls.INSIDE)
        self._parent: tuple[tuple[bytes, ...] | None, int] = (None, os.dup(self._root))

    def feed(self, data: bytes) -> None:
        """Unpack what arrived.

        Raises:
            PerstackError: INVALID `archive_invalid`; DENIED `archive_refused`; EXHAUSTED `archive_too_large`,
                `workspace_full`.
        """
        try:
            for piece in self._reader.feed(data):
                if isinstance(piece, bytes):
                    self._write(piece)
                else:
                    self._begin(piece)
        except OSError as error:
            raise _failed(error) from error

    def finish(self) -> Unpacked:
        """Move everything into the workspace, written to the disk before it appears there.

        Raises:
            PerstackError: INVALID `archive_invalid`; PRECONDITION `archive_conflict` (nothing was changed); CONFLICT
                `workspace_changed` when a job changed the same names at the same moment; EXHAUSTED `workspace_full`.
        """
        self._reader.finish()
        try:
            if self._prefix:
                self._descend(())  # an empty archive makes its directory
            _write_out(self._root)
            merge(self._root, self._held.data)
        except OSError as error:
            raise _failed(error) from error
        return Unpacked(self.files, self.bytes)

    def close(self) -> None:
        """Take away what was not moved. Idempotent."""
        if self._root < 0:
            return
        self._end_file()
        os.close(self._parent[1])
        os.close(self._root)
        self._root = -1
        outer = Path(f"/proc/self/fd/{self._held.outer}").readlink()
        clear(outer / self._name)

    # --- entries ----------------------------------------------------------------------------------------------------
    def _begin(self, entry: Entry) -> None:
        parts = parts_of(entry.path)
        self.files += 1
        self.bytes += entry.size
        if self.files > self._most.inodes or self.bytes > self._most.bytes:
            raise PerstackError(
                Kind.EXHAUSTED,
                "archive_too_large",
                f"the archive holds more than {self._most.bytes} bytes or {self._most.inodes} entries, which is what "
                "the workspace may hold; it was left as it was",
            )
        if not parts:  # the root itself
            if entry.kind is not EntryKind.DIRECTORY:
                raise refused(entry.path, "has no name")
            return
        *above, name = parts
        parent = self._descend(tuple(above))
        match entry.kind:
            case EntryKind.DIRECTORY:
                self._make_directory(parent, name, entry)
            case EntryKind.FILE:
                self._make_file(parent, name, entry)
            case EntryKind.SYMLINK:
                self._replace(parent, name, entry)
                os.symlink(checked_link(entry, len(above)), name, dir_fd=parent)
                os.chown(name, self._owner, self._owner, dir_fd=parent, follow_symlinks=False)
            case EntryKind.HARDLINK:
                self._make_hard_link(parent, name, entry)

    def _make_directory(self, parent: int, name: bytes, entry: Entry) -> None:
        descriptor = self._directory(parent, name, entry.path)
        try:
            Path(f"/proc/self/fd/{descriptor}").chmod(entry.mode | 0o700)
        finally:
            os.close(descriptor)

    def _make_file(self, parent: int, name: bytes, entry: Entry) -> None:
        self._replace(parent, name, entry)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(name, flags, 0o600, dir_fd=parent)
        os.fchown(self._file, self._owner, self._owner)
        os.fchmod(self._file, entry.mode | 0o600)
        self._left, self._stamp = entry.size, (entry.mtime, entry.mtime)
        if not entry.size:
            self._end_file()

    def _make_hard_link(self, parent: int, name: bytes, entry: Entry) -> None:
        *above, first = parts_of(entry.target) or (b"",)
        outer = self._opened(tuple(above), entry)
        try:
            found = os.stat(first, dir_fd=outer, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode):
                raise refused(entry.path, f"is a hard link to {shown(entry.target)}, which is no file of the archive")
            if (above, first) != (list(parts_of(entry.path))[:-1], name):
                self._replace(parent, name, entry)
                os.link(first, name, src_dir_fd=outer, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError as error:
            what = f"is a hard link to {shown(entry.target)}, which does not stand before it in the archive"
            raise refused(entry.path, what) from error
        finally:
            os.close(outer)

    def _replace(self, parent: int, name: bytes, entry: Entry) -> None:
        """A later entry of the same name counts, as in every tar."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except IsADirectoryError as error:
            raise refused(entry.path, "is a directory in one place and something else in another") from error

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self._left -= len(data)
        if not self._left:
            self._end_file()

    def _end_file(self) -> None:
        if self._file >= 0:
            file, self._file = self._file, -1
            try:
                os.utime(file, self._stamp)
            finally:
                os.close(file)

    # --- directories ------------------------------------------------------------------------------------------------
    def _descend(self, above: tuple[bytes, ...]) -> int:
        """The directory that entries are made in, itself made when the archive has none. The last one is kept open."""
        if self._parent[0] == above:
            return self._parent[1]
        descriptor = os.dup(self._root)
        for name in (*self._prefix, *above):
            try:
                inner = self._directory(descriptor, name, b"/".join(above))
            finally:
                os.close(descriptor)
            descriptor = inner
        os.close(self._parent[1])
        self._parent = (above, descriptor)
        return descriptor

    def _directory(self, parent: int, name: bytes, path: bytes) -> int:
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
            made = True
        except FileExistsError:
            made = False
        try:
            descriptor = syscalls.openat2(parent, os.fsdecode(name), syscalls.DIRECTORY, syscalls.INSIDE)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.EXDEV}:
                raise refused(path, "leads through something that the archive has as a file or a link") from error
            raise
        if made:
            os.chown(f"/proc/self/fd/{descriptor}", self._owner, self._owner)
        return descriptor

    def _opened(self, above: tuple[bytes, ...], entry: Entry) -> int:
        path = b"/".join((*self._prefix, *above)) or b"."
        try:
            return syscalls.openat2(self._root, os.fsdecode(path), syscalls.DIRECTORY, syscalls.INSIDE)
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENOTDIR, errno.EXDEV, errno.ENOENT}:
                raise
            what = f"is a hard link to {shown(entry.target)}, which is no file of the archive"
            raise refused(entry.path, what) from error


def _write_out(directory: int) -> None:
    reading = os.open(f"/proc/self/fd/{directory}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscalls.sync_file_system(reading)
    finally:
        os.close(reading)


def _failed(error: OSError) -> PerstackError:
    if error.errno in _FULL:
        message = "the workspace has no room for the archive; it was left as it was. Remove files, or make a larger one"
        return PerstackError(Kind.EXHAUSTED, "workspace_full", message)
    message = f"the archive could not be unpacked: {os.strerror(error.errno or errno.EIO)}; see the daemon's disk"
    return PerstackError(Kind.UNAVAILABLE, "workspace_unusable", message)
