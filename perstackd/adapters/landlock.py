"""What the kernel offers of Landlock, see https://docs.kernel.org/userspace-api/landlock.html."""

import ctypes
from typing import Final

_CREATE_RULESET: Final = 444  # landlock_create_ruleset(2), the same number on every architecture
_VERSION: Final = 1  # LANDLOCK_CREATE_RULESET_VERSION of linux/landlock.h


def landlock_abi() -> int:
    """The ABI version, 0 when the kernel has no Landlock or it is switched off."""
    libc = ctypes.CDLL(None, use_errno=True)
    size, flags = ctypes.c_size_t(0), ctypes.c_uint32(_VERSION)
    return max(0, int(libc.syscall(ctypes.c_long(_CREATE_RULESET), None, size, flags)))
