"""A workspace with a size: an ext4 file system in a sparse file, which caps bytes and inodes whatever a sandbox does.

Project quotas would do with less, but few hosts have a file system that is mounted with them, and a tmpfs does not
outlive the machine. Only the kernel's own ext4 ever writes into the file, a sandbox sees a directory. What the file
system's journal holds after a crash is replayed at the next mount. Blocking.

A directory of such a workspace holds `image`, the file; and `empty`, what of it was free before its first use. In the
image's root, which only the host sees, lies `data`, the workspace, and beside it what is being unpacked.
"""

import contextlib
import errno
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perstackd.adapters.workspaces import syscalls
from perstackd.adapters.workspaces.loop import loop_device
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.workspace import Quota

IMAGE: Final = "image"
EMPTY: Final = "empty"
DATA: Final = "data"

_BLOCK: Final = 4096
_JOURNAL_MIB: Final = 4
_MKFS_SECONDS: Final = 20.0
_OWN_INODES: Final = 11  # ten reserved ones and `data`
# Spelled out, so that the host's mke2fs.conf cannot ask for what an older kernel does not mount.
_FEATURES: Final = (
    "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,"
    "extra_isize,metadata_csum"
)
# Nothing is zeroed in the background (a sparse file reads as zeros), and what is deleted goes back to the host's disk.
_MOUNT_OPTIONS: Final = "discard,noinit_itable,errors=remount-ro"


@dataclass(frozen=True, slots=True)
class Free:
    """Free blocks and inodes of an image."""

    blocks: int
    inodes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What lies in a workspace: bytes on the disk, and files with directories and links."""

    bytes: int
    files: int


@contextlib.contextmanager
def room_on_disk() -> Iterator[None]:
    """Around what makes or mounts a workspace. Raises PerstackError EXHAUSTED `workspace_disk_full`."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        message = f"there is no room for a workspace on the daemon's disk: {error.strerror}; free space on it"
        raise PerstackError(Kind.EXHAUSTED, "workspace_disk_full", message) from error


def make_image(directory: Path, quota: Quota) -> None:
    """Make the image in `directory`, in which only root may write; all of it or nothing. One that is there stays.

    Raises:
        PerstackError: PRECONDITION `workspace_quota_unsupported`.
        OSError: as the disk says, ENOSPC among others.
    """
    if (directory / IMAGE).exists():
        return
    unfinished = directory / f"{IMAGE}.new"
    try:
        with unfinished.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.truncate(quota.bytes // _BLOCK * _BLOCK)
        _format(unfinished, quota.inodes)
        unfinished.rename(directory / IMAGE)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def mount_image(directory: Path, target: Path, owner: int) -> None:
    """Mount the image of `directory` on `target`, which only root may enter: nosuid, nodev, `data` owned by `owner`.

    Raises:
        PerstackError: PRECONDITION `workspace_quota_unsupported`, `workspace_damaged`.
    """
    image = directory / IMAGE
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOATIME
    with loop_device(str(image)) as device:
        try:
            syscalls.mount(device, str(target), "ext4", flags, _MOUNT_OPTIONS)
        except OSError as error:
            raise PerstackError(
                Kind.PRECONDITION,
                "workspace_damaged",
                f"the file system of the workspace {directory.name} cannot be mounted ({error}); see the kernel's log, "
                f"and repair it while no job uses it: e2fsck -f {image}",
            ) from error
    _begin(directory, target, owner)


def _begin(directory: Path, top: Path, owner: int) -> None:
    """Make `data`, once; a process that dies in the middle is gone on with."""
    if (top / DATA).exists():
        return
    with contextlib.suppress(FileNotFoundError):
        (top / "lost+found").rmdir()
    unfinished = top / f".{DATA}"
    unfinished.mkdir(mode=0o700, exist_ok=True)
    os.chown(unfinished, owner, owner)
    free = os.statvfs(top)
    (directory / EMPTY).write_text(json.dumps({"blocks": free.f_bfree, "inodes": free.f_ffree}))
    unfinished.rename(top / DATA)


def usage_of(directory: Path, top: Path | None) -> Usage:
    """What is used of the image of `directory`; of its mount `top` when it is mounted."""
    try:
        born = json.loads((directory / EMPTY).read_text())
    except FileNotFoundError:
        return Usage(0, 0)
    if top is None:
        free = free_of(directory / IMAGE)
    else:
        seen = os.statvfs(top)
        free = Free(seen.f_bfree, seen.f_ffree)
    return Usage(max(0, born["blocks"] - free.blocks) * _BLOCK, max(0, born["inodes"] - free.inodes))


def quota_of(directory: Path) -> Quota:
    """The size that the image of `directory` was made with. Raises as `free_of` does."""
    block = _superblock(directory / IMAGE)
    return Quota(_wide(block, 0x4, 0x150) * _BLOCK, max(0, _number(block, 0x0) - _OWN_INODES))


def free_of(image: Path) -> Free:
    """What the file system's own counters say, as they were at the last unmount.

    Raises:
        PerstackError: PRECONDITION `workspace_damaged` when it is no ext4 image.
    """
    block = _superblock(image)
    return Free(_wide(block, 0xC, 0x158), _number(block, 0x10))


def _superblock(image: Path) -> bytes:
    """struct ext4_super_block, see the kernel's Documentation/filesystems/ext4/super.rst."""
    with image.open("rb") as file:
        file.seek(1024)
        block = file.read(1024)
    if len(block) < 1024 or block[0x38:0x3A] != b"\x53\xef":
        message = f"{image} is not the image of a workspace any more; put the file back from a backup, or remove it"
        raise PerstackError(Kind.PRECONDITION, "workspace_damaged", message)
    return block


def _number(block: bytes, at: int) -> int:
    return int.from_bytes(block[at : at + 4], "little")


def _wide(block: bytes, low: int, high: int) -> int:
    return _number(block, high) << 32 | _number(block, low)


def _format(image: Path, inodes: int) -> None:
    command = ["mkfs.ext4", "-q", "-F", "-b", str(_BLOCK), "-I", "256", "-N", str(inodes + _OWN_INODES), "-m", "0"]
    command += ["-J", f"size={_JOURNAL_MIB}", "-O", _FEATURES]
    command += ["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0", "--", str(image)]
    environment = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LANG": "C.UTF-8", "MKE2FS_CONFIG": os.devnull}
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and the one path in it is ours
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=_MKFS_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise _no_mkfs("mkfs.ext4 is not installed (package e2fsprogs)") from error
    except subprocess.TimeoutExpired as error:
        raise _no_mkfs(f"mkfs.ext4 did not end within {_MKFS_SECONDS:g} s") from error
    if done.returncode and os.strerror(errno.ENOSPC).encode() in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if done.returncode:
        raise _no_mkfs(f"mkfs.ext4 failed: {done.stderr.decode(errors='replace').strip()[-300:]}")


def _no_mkfs(what: str) -> PerstackError:
    return PerstackError(
        Kind.PRECONDITION,
        "workspace_quota_unsupported",
        f"{what}; a workspace with a size is a file system of its own. Set workspaces.named_bytes = 0 for workspaces "
        "without one",
    )
