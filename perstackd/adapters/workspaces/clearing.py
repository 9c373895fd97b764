"""Removing a tree that a sandbox has filled: links are not followed, and no depth is too deep. Blocking."""

import os
from itertools import count
from pathlib import Path
from typing import Final

from perstackd.adapters.workspaces import syscalls

_DEEPEST: Final = 32


def clear(top: Path) -> None:
    """Remove `top`, below a directory that only root may enter, with all that is in it. Idempotent.

    A directory that lies deeper than 32 is first moved to the top, so that neither descriptors nor the stack run out.
    """
    try:
        descriptor = syscalls.openat2(syscalls.AT_FDCWD, str(top), syscalls.DIRECTORY, syscalls.WITHOUT_LINKS)
    except FileNotFoundError:
        return
    numbers = count()
    try:
        while names := _names(descriptor):
            for name in names:
                _remove(descriptor, descriptor, name, numbers, 0)
    finally:
        os.close(descriptor)
    top.rmdir()


def _remove(top: int, directory: int, name: bytes, numbers: "count[int]", depth: int) -> None:
    try:
        os.unlink(name, dir_fd=directory)
        return
    except IsADirectoryError:
        pass
    if depth >= _DEEPEST:
        taken = set(_names(top))
        free = next(place for number in numbers if (place := b"deep-%d" % number) not in taken)
        os.rename(name, free, src_dir_fd=directory, dst_dir_fd=top)
        return
    inner = syscalls.openat2(directory, os.fsdecode(name), syscalls.DIRECTORY, syscalls.INSIDE)
    try:
        for below in _names(inner):
            _remove(top, inner, below, numbers, depth + 1)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=directory)


def _names(directory: int) -> list[bytes]:
    reading = syscalls.openat2(directory, ".", os.O_RDONLY | os.O_DIRECTORY, syscalls.INSIDE)
    try:
        with os.scandir(reading) as entries:
            return [os.fsencode(entry.name) for entry in entries]
    finally:
        os.close(reading)
