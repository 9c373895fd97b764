"""Connections to the database file, and the schema in it: made, checked and migrated before anything else uses it.

Migrations are the numbered files of `migrations/`; `user_version` is the number of the last one that ran. They are
never changed once released.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Final

from perstackd.adapters.store.failures import corrupt, of_sqlite, of_system
from perstackd.domain.errors import Kind, PerstackError

APPLICATION_ID: Final = 0x50534B44  # "PSKD", shown by file(1)
PAGE_SIZE: Final = 4096  # measured against 8192 and 16384: the smallest file and the fastest commit

# FULL syncs the log at each commit: what returned survives a power cut. The log shrinks to its limit at checkpoints.
_WRITER_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA secure_delete = ON",
    "PRAGMA trusted_schema = OFF",
)


def open_writer(path: Path, busy_timeout_ms: int) -> sqlite3.Connection:
    """The one writing connection, usable from any one thread at a time; the schema is current on return.

    Raises:
        PerstackError: PRECONDITION `store_newer`, `store_foreign`, `store_corrupt`; UNAVAILABLE `store_unavailable`.
    """
    with _told(path):
        _make_private(path)
        connection = _connect(f"{path.absolute().as_uri()}?mode=rw", busy_timeout_ms)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def open_reader(path: Path, busy_timeout_ms: int) -> sqlite3.Connection:
    """A connection that cannot write. Raises as `open_writer`."""
    with _told(path):
        return _connect(f"{path.absolute().as_uri()}?mode=ro", busy_timeout_ms)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise of_sqlite(error, path) from error
    except OSError as error:
        raise of_system(error, path) from error


def _make_private(path: Path) -> None:
    # Before SQLite opens it: the log beside it inherits the mode. A file that is there is not opened, since closing
    # any descriptor of a file drops the locks that this process has on it.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        path.chmod(0o600)


def _connect(uri: str, busy_timeout_ms: int) -> sqlite3.Connection:
    timeout = busy_timeout_ms / 1000
    return sqlite3.connect(uri, timeout=timeout, isolation_level=None, check_same_thread=False, uri=True)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    scripts = migrations()
    version = _number(connection, "PRAGMA user_version")
    _check(connection, path, version, len(scripts))
    if version == 0:
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # deleted jobs give their room back in small steps
    for pragma in _WRITER_PRAGMAS:
        connection.execute(pragma).fetchall()
    if _number(connection, "PRAGMA synchronous") != 2:
        raise corrupt(path, "it does not take synchronous = FULL")
    for number, script in enumerate(scripts, start=1):
        if number > version:
            _migrate(connection, number, script)


def _check(connection: sqlite3.Connection, path: Path, version: int, known: int) -> None:
    application = _number(connection, "PRAGMA application_id")
    tables = _number(connection, "SELECT count(*) FROM sqlite_master")
    if application != APPLICATION_ID and (application or tables):
        message = f"{path} is a database of another program; name another state directory"
        raise PerstackError(Kind.PRECONDITION, "store_foreign", message)
    if version > known:
        message = (
            f"the store {path} has schema {version}, this perstackd knows {known}: a newer version wrote it; "
            "start that version again, or restore a backup from before the upgrade"
        )
        fields = {"schema": str(version), "known": str(known)}
        raise PerstackError(Kind.PRECONDITION, "store_newer", message, fields=fields)


def _migrate(connection: sqlite3.Connection, number: int, script: str) -> None:
    try:
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{script}\nPRAGMA application_id = {APPLICATION_ID};\n"
            f"PRAGMA user_version = {number};\nCOMMIT;"
        )
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def migrations() -> list[str]:
    """The scripts in their order; the first makes an empty store."""
    found = files("perstackd.adapters.store").joinpath("migrations").iterdir()
    scripts = sorted((file.name, file) for file in found if file.name.endswith(".sql"))
    return [file.read_text("utf-8") for _, file in scripts]


def _number(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])
