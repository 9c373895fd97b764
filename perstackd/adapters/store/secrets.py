"""Rows of stored secrets and of their keys, and jobs' sealed values when the master key changes."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

from perstackd.adapters.secrets.sealer import beginning_of, key_id_of
from perstackd.adapters.store.readers import Readers
from perstackd.adapters.store.writer import Writer
from perstackd.domain.errors import PerstackError
from perstackd.domain.secret import DataKey, MasterRotation, SealedEnv, Secret
from perstackd.ports.secret_store import KeptSecrets

_SELECT_SECRETS: Final = """
SELECT owner, name, experts, key_number, sealed, created_at, updated_at FROM secrets ORDER BY owner, name
"""
_UPSERT: Final = """
INSERT INTO secrets (owner, name, experts, key_number, sealed, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (owner, name) DO UPDATE SET experts = excluded.experts, key_number = excluded.key_number,
sealed = excluded.sealed, created_at = excluded.created_at, updated_at = excluded.updated_at
"""
_DELETE: Final = "DELETE FROM secrets WHERE owner = ? AND name = ?"
_SELECT_KEYS: Final = "SELECT owner, number, master_id, wrapped, created_at FROM data_keys ORDER BY owner, number"
_UPSERT_KEY: Final = """
INSERT INTO data_keys (owner, number, master_id, wrapped, created_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (owner, number) DO UPDATE SET master_id = excluded.master_id, wrapped = excluded.wrapped
"""
_DELETE_KEYS: Final = """
DELETE FROM data_keys WHERE owner = ?1 AND number < ?2
AND NOT EXISTS (SELECT 1 FROM secrets WHERE owner = ?1 AND key_number = data_keys.number)
"""
_SELECT_ROTATION: Final = "SELECT from_id, from_source, to_id, to_source FROM master_rotation"
_DELETE_ROTATION: Final = "DELETE FROM master_rotation"
_INSERT_ROTATION: Final = """
INSERT INTO master_rotation (place, from_id, from_source, to_id, to_source) VALUES (1, ?, ?, ?, ?)
"""
_SELECT_BEGINNINGS: Final = "SELECT DISTINCT substr(sealed, 1, 64) FROM sealed_envs"
_SELECT_OTHERS: Final = """
SELECT id, sealed FROM sealed_envs JOIN jobs USING (job_no)
WHERE id > ?1 AND substr(sealed, 1, length(?2)) <> ?2 ORDER BY id LIMIT ?3
"""
_UPDATE_ENV: Final = """
UPDATE sealed_envs SET sealed = ? WHERE sealed = ? AND job_no = (SELECT job_no FROM jobs WHERE id = ?)
"""


class SqliteSecrets:
    """See `perstackd.ports.secret_store.SecretRows`."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def kept(self) -> KeptSecrets:
        return await self._readers.run(_kept)

    async def put(self, secrets: Sequence[Secret], data_keys: Sequence[DataKey] = ()) -> None:
        await self._writer.run(lambda connection: _put(connection, secrets, data_keys))

    async def remove(self, owner: str, name: str) -> bool:
        return bool(await self._writer.run(lambda c: c.execute(_DELETE, (owner, name)).rowcount))

    async def drop_data_keys(self, owner: str, below: int) -> None:
        await self._writer.run(lambda connection: connection.execute(_DELETE_KEYS, (owner, below)).rowcount)

    async def set_rotation(self, rotation: MasterRotation | None) -> None:
        await self._writer.run(lambda connection: _set_rotation(connection, rotation))


class SqliteSealedEnvs:
    """See `perstackd.ports.secret_store.SealedEnvs`. Reads in the writer's thread, so after what came before."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def under_others(self, master_id: str, after: str, limit: int) -> tuple[SealedEnv, ...]:
        return await self._writer.run(lambda connection: _under_others(connection, master_id, after, limit))

    async def replace(self, old: SealedEnv, sealed: bytes) -> bool:
        values = (sealed, old.sealed, old.job_id)
        return bool(await self._writer.run(lambda connection: connection.execute(_UPDATE_ENV, values).rowcount))


def _kept(connection: sqlite3.Connection) -> KeptSecrets:
    connection.execute("BEGIN")  # one state of the store, whatever is written meanwhile
    try:
        secrets = tuple(_secret(row) for row in connection.execute(_SELECT_SECRETS).fetchall())
        keys = tuple(DataKey(*row) for row in connection.execute(_SELECT_KEYS).fetchall())
        envs = {key_id for (sealed,) in connection.execute(_SELECT_BEGINNINGS) for key_id in _key_ids(sealed)}
        rotation = connection.execute(_SELECT_ROTATION).fetchone()
    finally:
        connection.execute("ROLLBACK")
    ids = tuple(sorted(envs | {key.master_id for key in keys}))
    return KeptSecrets(secrets, keys, ids, None if rotation is None else MasterRotation(*rotation))


def _secret(row: tuple[Any, ...]) -> Secret:
    owner, name, experts, key_number, sealed, created_at, updated_at = row
    return Secret(owner, name, tuple(json.loads(experts)), key_number, sealed, created_at, updated_at)


def _put(connection: sqlite3.Connection, secrets: Sequence[Secret], data_keys: Sequence[DataKey]) -> None:
    keys = [(key.owner, key.number, key.master_id, key.wrapped, key.created_at) for key in data_keys]
    connection.executemany(_UPSERT_KEY, keys)
    rows = [
        (s.owner, s.name, json.dumps(s.experts), s.key_number, s.sealed, s.created_at, s.updated_at) for s in secrets
    ]
    connection.executemany(_UPSERT, rows)


def _set_rotation(connection: sqlite3.Connection, rotation: MasterRotation | None) -> None:
    connection.execute(_DELETE_ROTATION)
    if rotation is not None:
        values = (rotation.from_id, rotation.from_source, rotation.to_id, rotation.to_source)
        connection.execute(_INSERT_ROTATION, values)


def _under_others(connection: sqlite3.Connection, master_id: str, after: str, limit: int) -> tuple[SealedEnv, ...]:
    found = connection.execute(_SELECT_OTHERS, (after, beginning_of(master_id), limit)).fetchall()
    return tuple(SealedEnv(job_id, sealed) for job_id, sealed in found)


def _key_ids(sealed: bytes) -> Iterator[str]:
    """None for what is no sealed value: no key opens it, and its job is told when it is taken up."""
    with suppress(PerstackError):
        yield key_id_of(sealed)
