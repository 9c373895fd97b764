"""Loop devices: a file as a block device, see loop(4). Blocking.

Every device is configured to clear itself when its last user is gone, be it a mount or a descriptor: nothing that ends
badly leaves one behind. A file is never on two devices, since two file systems would write over each other: a device
that has it, perhaps of an earlier process whose sandboxes still live, is used again.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from perstackd.domain.errors import Kind, PerstackError

# linux/loop.h
_LOOP_GET_STATUS64: Final = 0x4C05
_LOOP_CONFIGURE: Final = 0x4C0A
_LOOP_CTL_GET_FREE: Final = 0x4C82
_LO_FLAGS_AUTOCLEAR: Final = 4
_INFO: Final = struct.Struct("=5Q4I64s64s32s2Q")  # struct loop_info64
_CONFIG: Final = struct.Struct(f"=2I{_INFO.size}s64x")  # struct loop_config

_CONTROL: Final = "/dev/loop-control"
_BLOCKS: Final = Path("/sys/block")
_TRIES: Final = 32


@contextmanager
def loop_device(image: str) -> Iterator[str]:
    """The path of the device that has `image`. It lives while the context is open or something of it is mounted.

    Raises:
        PerstackError: PRECONDITION `workspace_quota_unsupported` when the machine has no loop devices for us.
    """
    file = os.open(image, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        path, device = _found(file) or _configured(file)
    except OSError as error:
        raise PerstackError(
            Kind.PRECONDITION,
            "workspace_quota_unsupported",
            f"a workspace with a size needs a loop device, and none can be had ({error}); load the kernel's module "
            "loop (modprobe loop), or set workspaces.named_bytes = 0 for workspaces without one",
        ) from error
    finally:
        os.close(file)
    try:
        yield path
    finally:
        os.close(device)


def _found(file: int) -> tuple[str, int] | None:
    """The device that has the open file already, and a descriptor that keeps it."""
    wanted = os.fstat(file)
    for path in _in_use():
        try:
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # it went away meanwhile
        try:
            info = _INFO.unpack(fcntl.ioctl(device, _LOOP_GET_STATUS64, bytes(_INFO.size)))
        except OSError as error:
            os.close(device)
            if error.errno != errno.ENXIO:  # it was cleared meanwhile
                raise
            continue
        if info[:2] == (_encoded(wanted.st_dev), wanted.st_ino):
            return path, device
        os.close(device)
    return None


def _in_use() -> Iterator[str]:
    if _BLOCKS.is_dir():
        yield from (f"/dev/{found.parents[1].name}" for found in _BLOCKS.glob("loop*/loop/backing_file"))
    else:
        yield from (str(path) for path in Path("/dev").glob("loop[0-9]*"))


def _configured(file: int) -> tuple[str, int]:
    for _ in range(_TRIES):
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
        try:
            path = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
        finally:
            os.close(control)
        device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        info = _INFO.pack(*(0,) * 8, _LO_FLAGS_AUTOCLEAR, b"", b"", b"", 0, 0)
        try:
            fcntl.ioctl(device, _LOOP_CONFIGURE, _CONFIG.pack(file, 0, info))
        except OSError as error:
            os.close(device)
            if error.errno != errno.EBUSY:
                raise
            continue  # somebody else took it between the two calls
        return path, device
    raise OSError(errno.EBUSY, f"{_TRIES} free loop devices were taken by others")


def _encoded(device: int) -> int:
    """As the kernel writes a device number for old callers: new_encode_dev of linux/kdev_t.h."""
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)
