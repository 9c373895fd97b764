"""The Linux calls that Python has no function for, typed; everything else in this package is built on them.

Numbers and flags are those of the kernel's uapi headers, named at each group. System calls added since 5.1 have one
number on all architectures but alpha (asm-generic/unistd.h and arch/x86/entry/syscalls/syscall_64.tbl), so x86_64 and
aarch64 agree; mount and umount2, whose numbers differ, are called through libc. Every function raises OSError with
the call and its object in the message.
"""

import ctypes
import os
import struct
from typing import Final

# asm-generic/unistd.h
_OPEN_TREE: Final = 428
_MOVE_MOUNT: Final = 429
_OPENAT2: Final = 437
_MOUNT_SETATTR: Final = 442

# linux/fcntl.h
AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000

# linux/openat2.h
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
WITHOUT_LINKS: Final = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
INSIDE: Final = RESOLVE_BENEATH | WITHOUT_LINKS

# linux/mount.h
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOATIME: Final = 0x400
MS_BIND: Final = 0x1000
MS_PRIVATE: Final = 1 << 18
MS_SHARED: Final = 1 << 20
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_IDMAP: Final = 0x100000
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
_MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40

# include/linux/fs.h, documented in umount2(2)
_MNT_DETACH: Final = 0x2
_UMOUNT_NOFOLLOW: Final = 0x8

# always with a RESOLVE_NO_SYMLINKS: together with O_NOFOLLOW a link would be ENOTDIR instead of ELOOP
DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """Open `path` as seen from `directory`; the kernel itself refuses what `resolve` forbids, in one step.

    ELOOP stands for a link, EXDEV for a way out of `directory` or, with RESOLVE_NO_XDEV, for a mount point.
    """
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _call(_OPENAT2, f"openat2 {path}", directory, _path(path), how, len(how))


def clone_tree(source: int) -> int:
    """A detached copy of the mount at the open directory `source`, without mounts below it; the caller closes it."""
    return _call(_OPEN_TREE, "open_tree", source, b"", _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH)


def set_mount_attributes(tree: int, attributes: int, userns: int) -> None:
    """Set MOUNT_ATTR_* on a detached copy and leave the source's peer group: later mounts below it stay outside."""
    request = struct.pack("=QQQQ", attributes, 0, MS_PRIVATE, userns)
    _call(_MOUNT_SETATTR, "mount_setattr", tree, b"", _AT_EMPTY_PATH, request, len(request))


def attach_tree(tree: int, target: int) -> None:
    """Mount a detached copy on the open directory `target`."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _call(_MOVE_MOUNT, "move_mount", tree, b"", target, b"", flags)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2); empty strings are passed as NULL."""
    arguments = [part.encode() or None for part in (source, target, kind)]
    _checked(_libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None), f"mount {target}")


def unmount(target: str) -> None:
    """umount2(2), lazily and without following a link. EINVAL stands for "not a mount point"."""
    _checked(_libc.umount2(_path(target), _MNT_DETACH | _UMOUNT_NOFOLLOW), f"umount2 {target}")


def sync_file_system(descriptor: int) -> None:
    """syncfs(2): everything of its file system is on the disk when this returns."""
    _checked(_libc.syncfs(descriptor), "syncfs")


def _path(path: str) -> bytes:
    if "\0" in path:
        raise ValueError("a path cannot hold a zero byte")
    return os.fsencode(path)


def _call(number: int, what: str, *arguments: int | bytes) -> int:
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *wide), what)


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result
