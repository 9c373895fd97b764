"""The store as one file, and back: a consistent copy of the database and every blob that its jobs need.

The copy is made with SQLite's online backup, so that the daemon serves meanwhile; blobs are copied after it, which is
enough, because they are written before the events that need them. The file is a tar archive: `manifest.json`, the
database, the blobs by digest. The master key, named workspaces and the configuration are not in it. Blocking: called
from the command line, with no event loop about.
"""

import hashlib
import json
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from perstackd.adapters.store import connections, queries
from perstackd.adapters.store.blobs import parts_of
from perstackd.adapters.store.failures import of_sqlite, of_system
from perstackd.domain.errors import Kind, PerstackError

FORMAT: Final = "perstack-backup"
VERSION: Final = 1
_DATABASE: Final = "perstackd.db"
_BLOBS: Final = "blobs"
_MANIFEST: Final = "manifest.json"
_MAX_MANIFEST: Final = 1 << 20
_BUSY_MS: Final = 5000
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class BackedUp:
    """What a backup holds: jobs, blobs, and the size of its file or files in bytes."""

    jobs: int
    blobs: int
    size: int


def back_up(state_directory: Path, target: Path, made_by: str) -> BackedUp:
    """Write the store of a state directory, which a daemon may be using, to a new file with mode 0600. `made_by` is
    the version that is told in the file.

    Raises:
        PerstackError: ALREADY_EXISTS `backup_exists`; NOT_FOUND `store_missing`; UNAVAILABLE `backup_unwritable`;
            CONFLICT `backup_torn` when jobs were deleted meanwhile; PRECONDITION `store_corrupt`, `store_newer`. There
            is no file then.
    """
    source = state_directory / _DATABASE
    if not source.is_file():
        message = f"there is no store {source}; name the daemon's configuration with --config"
        raise PerstackError(Kind.NOT_FOUND, "store_missing", message)
    if target.exists():
        message = f"{target} is there already; name a new file"
        raise PerstackError(Kind.ALREADY_EXISTS, "backup_exists", message)
    with _unfinished(target) as (archive, scratch):
        copy = scratch / _DATABASE
        _copy_database(source, copy)
        jobs, digests = _contents(copy)
        manifest = {"format": FORMAT, "version": VERSION, "madeBy": made_by, "jobs": jobs, "blobs": len(digests)}
        _write(archive, state_directory, copy, {**manifest, "database": _digest(copy)}, digests)
    return BackedUp(jobs, len(digests), target.stat().st_size)


@contextmanager
def _unfinished(target: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """A file beside the target that takes its name once all is written, and a directory for the copy."""
    try:
        with tempfile.TemporaryDirectory(prefix=".perstackd-backup-", dir=target.absolute().parent) as scratch:
            path = Path(scratch) / "archive"
            with path.open("xb") as archive:
                os.fchmod(archive.fileno(), 0o600)
                yield archive, Path(scratch)
                archive.flush()
                os.fsync(archive.fileno())
            os.link(path, target)  # not a rename: a file that came meanwhile stays
            _sync(target.absolute().parent)
    except FileExistsError as error:
        message = f"{target} is there already; name a new file"
        raise PerstackError(Kind.ALREADY_EXISTS, "backup_exists", message) from error
    except OSError as error:
        message = f"the backup {target} cannot be written: {error.strerror or error}; name a place with room for it"
        raise PerstackError(Kind.UNAVAILABLE, "backup_unwritable", message) from error


def _copy_database(source: Path, copy: Path) -> None:
    try:
        with closing(connections.open_reader(source, _BUSY_MS)) as reader, closing(sqlite3.connect(copy)) as writer:
            reader.backup(writer)  # all at once: in steps it would begin anew whenever the daemon wrote
        with closing(connections.open_writer(copy, _BUSY_MS)) as writer:  # an older store has our schema then
            writer.execute("PRAGMA journal_mode = DELETE").fetchall()  # one file, without a log beside it
    except sqlite3.Error as error:
        raise of_sqlite(error, source) from error


def _write(archive: IO[bytes], state_directory: Path, copy: Path, manifest: dict[str, Any], digests: list[str]) -> None:
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        with tempfile.TemporaryFile(dir=copy.parent) as head:
            text = json.dumps(manifest, sort_keys=True, indent=1).encode()
            head.write(text)
            head.seek(0)
            tar.addfile(_member(_MANIFEST, len(text)), head)
        with copy.open("rb") as file:
            tar.addfile(_member(_DATABASE, copy.stat().st_size), file)
        for digest in digests:
            first, rest = parts_of(digest)
            try:
                with (state_directory / _BLOBS / first / rest).open("rb") as file:
                    tar.addfile(_member(f"{_BLOBS}/{first}/{rest}", os.fstat(file.fileno()).st_size), file)
            except FileNotFoundError as error:
                message = "jobs were deleted while the backup was made, and a blob with them; make it again"
                raise PerstackError(Kind.CONFLICT, "backup_torn", message, retryable=True) from error


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


# --- back -----------------------------------------------------------------------------------------------------------
def restore(source: Path, state_directory: Path) -> BackedUp:
    """Make the store of a state directory that has none from a backup, after all of it was checked. The caller holds
    the directory's lock.

    Raises:
        PerstackError: NOT_FOUND `backup_missing`; INVALID `backup_invalid` when it is cut, damaged or none;
            PRECONDITION `backup_newer`, `store_newer`; ALREADY_EXISTS `store_exists`. Nothing was written then.
    """
    for name in (_DATABASE, _BLOBS):
        there = state_directory / name
        if there.exists():
            message = f"{there} is there already; move it away, or name another state_directory"
            raise PerstackError(Kind.ALREADY_EXISTS, "store_exists", message)
    try:
        state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=state_directory) as scratch:
            found = _checked(source, Path(scratch))
            os.replace(Path(scratch) / _BLOBS, state_directory / _BLOBS)  # noqa: PTH105 - of directories, as rename(2)
            _sync(state_directory)
            os.replace(Path(scratch) / _DATABASE, state_directory / _DATABASE)  # noqa: PTH105 - last: then it is there
            _sync(state_directory)
            return found
    except OSError as error:
        raise of_system(error, state_directory) from error


def _checked(source: Path, scratch: Path) -> BackedUp:
    try:
        size = source.stat().st_size
        with source.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            manifest = _manifest(tar, source)
            seen = _unpacked(tar, scratch, source)
    except FileNotFoundError as error:
        message = f"there is no backup {source}"
        raise PerstackError(Kind.NOT_FOUND, "backup_missing", message) from error
    except tarfile.TarError as error:
        raise _invalid(source, f"it is cut, damaged, or no backup ({error})") from error
    database = scratch / _DATABASE
    if not database.is_file() or _digest(database) != manifest.get("database"):
        raise _invalid(source, "its database is missing or was changed")
    _open_once(database, source)
    jobs, digests = _contents(database)
    if set(digests) != seen or manifest.get("blobs") != len(seen) or manifest.get("jobs") != jobs:
        raise _invalid(source, "it does not hold the blobs that its jobs need")
    return BackedUp(jobs, len(seen), size)


def _manifest(tar: tarfile.TarFile, source: Path) -> dict[str, Any]:
    first = tar.next()
    file = tar.extractfile(first) if first is not None and first.name == _MANIFEST and first.isfile() else None
    if first is None or file is None or first.size > _MAX_MANIFEST:
        raise _invalid(source, "it does not begin as backups do")
    try:
        manifest = json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise _invalid(source, "its manifest cannot be read") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise _invalid(source, "it does not begin as backups do")
    if not isinstance(manifest.get("version"), int) or manifest["version"] > VERSION:
        message = f"{source} was made by perstackd {str(manifest.get('madeBy'))[:32]}; restore it with that version"
        raise PerstackError(Kind.PRECONDITION, "backup_newer", message)
    return manifest


def _unpacked(tar: tarfile.TarFile, scratch: Path, source: Path) -> set[str]:
    """The digests of its blobs. Names are made of digests and never taken from the archive."""
    blobs = scratch / _BLOBS
    for name in ("tmp", *(f"{number:02x}" for number in range(256))):
        (blobs / name).mkdir(mode=0o700, parents=True)
    blobs.chmod(0o700)
    seen: set[str] = set()
    while (member := tar.next()) is not None:
        file = tar.extractfile(member) if member.isfile() else None
        if file is None:
            raise _invalid(source, f"it holds {member.name[:80]!r}, which is no file of a backup")
        if member.name == _DATABASE:
            _copied(file, scratch / _DATABASE)
            continue
        prefix, _, rest = member.name.partition("/")
        digest = f"sha256:{rest.replace('/', '')}"
        if prefix != _BLOBS or member.name != "/".join((_BLOBS, *_parts(digest, source))) or digest in seen:
            raise _invalid(source, f"it holds {member.name[:80]!r}, which is no file of a backup")
        if f"sha256:{_copied(file, blobs.joinpath(*_parts(digest, source)))}" != digest:
            raise _invalid(source, f"the bytes of the blob {digest} do not have its digest")
        seen.add(digest)
    return seen


def _parts(digest: str, source: Path) -> tuple[str, str]:
    try:
        return parts_of(digest)
    except PerstackError as error:
        raise _invalid(source, f"it holds a file with a name that is no digest: {digest[:80]!r}") from error


def _copied(source: IO[bytes], target: Path) -> str:
    """The SHA-256 of what was written, and is on the disk."""
    whole = hashlib.sha256()
    with target.open("xb") as file:
        os.fchmod(file.fileno(), 0o600)
        while piece := source.read(_PIECE):
            whole.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return whole.hexdigest()


def _open_once(database: Path, source: Path) -> None:
    """Open it as the daemon will: an older schema is brought up to date, a newer one refused. The sandboxes of then are
    not waited for: their jobs go on in fresh ones.
    """
    try:
        with closing(connections.open_writer(database, _BUSY_MS)) as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            connection.execute("DELETE FROM sandboxes")
            connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    except sqlite3.Error as error:
        raise _invalid(source, f"its database cannot be read ({error})") from error
    except PerstackError as error:
        if error.reason in {"store_newer", "store_foreign"}:
            raise
        raise _invalid(source, "its database cannot be read") from error
    if verdict != "ok":
        raise _invalid(source, f"its database is damaged ({verdict})")


def _contents(database: Path) -> tuple[int, list[str]]:
    """How many jobs it has, and the blobs that they need."""
    try:
        with closing(connections.open_reader(database, _BUSY_MS)) as connection:
            (jobs,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
            found = connection.execute(queries.SELECT_BLOB_USES).fetchall()
    except sqlite3.Error as error:
        raise of_sqlite(error, database) from error
    return int(jobs), [digest for (digest,) in found]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _invalid(source: Path, what: str) -> PerstackError:
    message = f"{source} cannot be restored: {what}; nothing was written. Take another backup"
    return PerstackError(Kind.INVALID, "backup_invalid", message)
