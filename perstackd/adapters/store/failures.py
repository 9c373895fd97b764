"""What SQLite and the file system say when they cannot, as errors that say what to do."""

import errno
import sqlite3
from pathlib import Path
from typing import Final

from perstackd.domain.errors import Kind, PerstackError

_REMEDIES: Final = {
    sqlite3.SQLITE_FULL: "the disk is full: free space on its file system",
    sqlite3.SQLITE_READONLY: "it is read-only: let the daemon's user write to the state directory and its file system",
    sqlite3.SQLITE_PERM: "access was refused: give the state directory to the daemon's user",
    sqlite3.SQLITE_BUSY: "another process holds its lock: end other users of the file",
    sqlite3.SQLITE_LOCKED: "another process holds its lock: end other users of the file",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: see that the state directory is there and is the daemon user's",
    sqlite3.SQLITE_IOERR: "reading or writing failed: see the kernel's log, free space, file size limits",
    sqlite3.SQLITE_NOMEM: "memory ran out: give the daemon more",
}
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def of_sqlite(error: sqlite3.Error, path: Path) -> PerstackError:
    """UNAVAILABLE `store_unavailable`, PRECONDITION `store_corrupt`, or INTERNAL `store_failed` for a defect."""
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF  # the rest of the bits tell variants apart
    if primary in _CORRUPT:
        return corrupt(path, str(error))
    if primary is not None and primary in _REMEDIES:
        return unavailable(path, f"{_REMEDIES[primary]} ({error})")
    return PerstackError(
        Kind.INTERNAL, "store_failed", f"the store {path} failed: {error}; this is a defect, report it"
    )


def of_system(error: OSError, path: Path) -> PerstackError:
    """UNAVAILABLE `store_unavailable`."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    remedy = "free space on its file system" if full else "see its file system, owner and limits"
    return unavailable(path, f"{error.strerror or error}: {remedy}")


def unavailable(path: Path, detail: str) -> PerstackError:
    """UNAVAILABLE `store_unavailable`; nothing of the failed call was kept."""
    message = f"the store {path} cannot be used: {detail}; then try again, nothing of this call was kept"
    return PerstackError(Kind.UNAVAILABLE, "store_unavailable", message, retryable=True)


def closed(path: Path) -> PerstackError:
    """UNAVAILABLE `store_closed`: the daemon is going down."""
    return PerstackError(
        Kind.UNAVAILABLE, "store_closed", f"the store {path} is closed; try again once the daemon is back"
    )


def corrupt(path: Path, detail: str) -> PerstackError:
    """PRECONDITION `store_corrupt`."""
    message = f"the store {path} is damaged ({detail}); stop the daemon and restore the state directory from a backup"
    return PerstackError(Kind.PRECONDITION, "store_corrupt", message)
