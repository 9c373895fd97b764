"""A file that appears whole or not at all. Blocking; async callers use threads."""

import os
import tempfile
from pathlib import Path
from typing import IO

from perstackctl.client.errors import ConflictError, InvalidError


def begin(path: Path) -> IO[bytes]:
    """A file beside it: nobody takes a part for the whole.

    Raises:
        ConflictError: `file_exists`. InvalidError: `file_unwritable`.
    """
    if path.exists():
        raise ConflictError(f"{path} is there already; name a new file", reason="file_exists")
    try:
        return tempfile.NamedTemporaryFile(dir=path.absolute().parent, prefix=f".{path.name}.", delete=False)
    except OSError as error:
        raise InvalidError(f"{path} cannot be written: {error.strerror}", reason="file_unwritable") from None


def give_name(file: IO[bytes], path: Path) -> None:
    """It is whole: written to the disk, and at its place. Raises as `begin` does."""
    try:
        file.flush()
        os.fsync(file.fileno())
        os.link(file.name, path)
    except FileExistsError:
        raise ConflictError(f"{path} is there already; name a new file", reason="file_exists") from None
    except OSError as error:
        raise InvalidError(f"{path} cannot be written: {error.strerror}", reason="file_unwritable") from None


def drop(file: IO[bytes]) -> None:
    """Close it and take away its first name, in any case."""
    file.close()
    Path(file.name).unlink(missing_ok=True)
