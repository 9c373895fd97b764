"""A workspace's archive, unpacked into a directory of the caller. What is in it was written by a sandbox. Blocking.

Nothing is written through a link: those of the archive are made last, those that were there stop it, and a link that
leaves the directory is not made. tarfile's own filters do the same on newer Pythons only.
"""

import os
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from perstackctl.client.errors import InvalidError

_COPY: Final = 256 << 10


@dataclass(slots=True)
class Extracted:
    """How many files, directories and links were made, and what was left out."""

    files: int = 0
    left_out: list[str] = field(default_factory=list)


def extract(archive: BinaryIO, into: Path) -> Extracted:
    """Unpack into the directory `into`, which is made when it is not there. Files of the same name are replaced. Set-id
    bits are not taken, and everything belongs to the caller.

    Raises:
        InvalidError: `archive_invalid`; `file_unwritable`. What came before it is there.
    """
    done, links = Extracted(), list[tuple[Path, str]]()
    try:
        into.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=archive, mode="r:") as reading:
            for entry in reading:
                _one(reading, entry, into, done, links)
        for path, target in links:
            _clear(path)
            path.symlink_to(target)
    except tarfile.TarError as error:
        raise InvalidError(f"the archive cannot be read: {error}", reason="archive_invalid") from None
    except OSError as error:
        place = error.filename if isinstance(error.filename, (str, os.PathLike)) else into
        raise InvalidError(f"{place} cannot be written: {error.strerror}", reason="file_unwritable") from None
    return done


def _one(
    reading: tarfile.TarFile, entry: tarfile.TarInfo, into: Path, done: Extracted, links: list[tuple[Path, str]]
) -> None:
    parts = [part for part in entry.name.split("/") if part not in {"", "."}]
    plain = bool(parts) and ".." not in parts and not entry.name.startswith("/") and "\0" not in entry.name
    if not plain or not (entry.isdir() or entry.isreg() or _stays(entry, len(parts) - 1)):
        done.left_out.append(entry.name)
        return
    path = _inside(into, parts)
    if entry.isdir():
        _directory(path)
    elif entry.issym():
        links.append((path, entry.linkname))
    else:
        _write(reading, entry, path)
    done.files += 1


def _stays(entry: tarfile.TarInfo, depth: int) -> bool:
    """A link that goes up at its beginning only, and not further than the archive's root."""
    parts = [part for part in entry.linkname.split("/") if part not in {"", "."}]
    up = next((place for place, part in enumerate(parts) if part != ".."), len(parts))
    bad = entry.linkname.startswith("/") or "\0" in entry.linkname or ".." in parts[up:]
    return entry.issym() and bool(entry.linkname) and not bad and up <= depth


def _inside(into: Path, parts: list[str]) -> Path:
    """Where it goes; directories above it are made, none of them through a link."""
    path = into
    for part in parts[:-1]:
        path = path / part
        _directory(path)
    return path / parts[-1]


def _directory(path: Path) -> None:
    if path.is_symlink():
        raise InvalidError(
            f"{path} is a link; take it away, or unpack into another directory", reason="file_unwritable"
        )
    path.mkdir(exist_ok=True)


def _write(reading: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
    source = reading.extractfile(entry)
    if source is None:
        raise tarfile.ReadError(f"{entry.name} has no content")
    _clear(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with source, os.fdopen(os.open(path, flags, entry.mode & 0o777 | 0o600), "wb") as file:
        while piece := source.read(_COPY):
            file.write(piece)
    os.utime(path, (entry.mtime, entry.mtime))


def _clear(path: Path) -> None:
    if path.is_symlink() or path.exists():
        path.unlink()
