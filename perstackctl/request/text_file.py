"""Reading a text of bounded size that somebody names."""

from pathlib import Path
from typing import BinaryIO

from perstackctl.client.errors import InvalidError


def is_file(path: Path) -> bool:
    """Whether there is a file that can be seen; a directory that may not be entered hides what is in it."""
    try:
        return path.is_file()
    except OSError:
        return False


def read(path: Path, limit: int, what: str) -> str:
    """The file's text.

    Raises:
        InvalidError: not a file, not readable, larger than `limit` bytes, not UTF-8.
    """
    try:
        if not path.is_file():
            there = "a file" if path.exists() else "there"
            raise InvalidError(f"{what} {path} is not {there}", reason="file_unreadable")
        with path.open("rb") as file:
            return decoded(file, limit, f"{what} {path}")
    except OSError as error:
        raise InvalidError(f"{what} {path} cannot be read: {error.strerror}", reason="file_unreadable") from None


def decoded(file: BinaryIO, limit: int, what: str) -> str:
    """What is left in an open file, as UTF-8. Reads at most one byte more than `limit`.

    Raises:
        InvalidError: reason `too_large` or `not_utf8`, with the place of the first wrong byte.
    """
    data = file.read(limit + 1)
    if len(data) > limit:
        raise InvalidError(f"{what} is larger than the {_size(limit)} that are allowed", reason="too_large")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidError(
            f"{what} is not UTF-8: byte {error.start} (line {line}) is 0x{data[error.start]:02x}; "
            "convert it with iconv -t UTF-8",
            reason="not_utf8",
        ) from None


def _size(limit: int) -> str:
    return f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
