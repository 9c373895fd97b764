"""Rows of secrets in memory, beside the rest of the fake store: they fail as it does."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from perstackd.adapters.secrets.sealer import key_id_of
from perstackd.domain.errors import PerstackError
from perstackd.domain.ids import JobId
from perstackd.domain.secret import DataKey, MasterRotation, SealedEnv, Secret
from perstackd.ports.secret_store import KeptSecrets


class Memory(Protocol):
    """The fake store, as far as it is needed here."""

    envs: dict[JobId, bytes]

    def check_open(self) -> None: ...

    def check_writable(self) -> None: ...


class FakeSecretRows:
    """Implements `perstackd.ports.secret_store.SecretRows`."""

    def __init__(self, store: Memory) -> None:
        self._store = store
        self.secrets: dict[tuple[str, str], Secret] = {}
        self.data_keys: dict[tuple[str, int], DataKey] = {}
        self.rotation: MasterRotation | None = None

    async def kept(self) -> KeptSecrets:
        self._store.check_open()
        ids = {key.master_id for key in self.data_keys.values()}
        for sealed in self._store.envs.values():
            with suppress(PerstackError):
                ids.add(key_id_of(sealed))
        secrets = tuple(self.secrets[place] for place in sorted(self.secrets))
        keys = tuple(self.data_keys[place] for place in sorted(self.data_keys))
        return KeptSecrets(secrets, keys, tuple(sorted(ids)), self.rotation)

    async def put(self, secrets: Sequence[Secret], data_keys: Sequence[DataKey] = ()) -> None:
        self._store.check_writable()
        self.data_keys |= {(key.owner, key.number): key for key in data_keys}
        self.secrets |= {(secret.owner, secret.name): secret for secret in secrets}

    async def remove(self, owner: str, name: str) -> bool:
        self._store.check_writable()
        return self.secrets.pop((owner, name), None) is not None

    async def drop_data_keys(self, owner: str, below: int) -> None:
        self._store.check_writable()
        used = {(secret.owner, secret.key_number) for secret in self.secrets.values()}
        for place in [place for place in self.data_keys if place[0] == owner and place[1] < below]:
            if place not in used:
                del self.data_keys[place]

    async def set_rotation(self, rotation: MasterRotation | None) -> None:
        self._store.check_writable()
        self.rotation = rotation


class FakeSealedEnvs:
    """Implements `perstackd.ports.secret_store.SealedEnvs`."""

    def __init__(self, store: Memory) -> None:
        self._store = store

    async def under_others(self, master_id: str, after: str, limit: int) -> tuple[SealedEnv, ...]:
        self._store.check_open()
        envs = sorted((job_id, sealed) for job_id, sealed in self._store.envs.items() if sealed and job_id > after)
        others = [SealedEnv(job_id, sealed) for job_id, sealed in envs if sealed[1:9].hex() != master_id]
        return tuple(others[:limit])

    async def replace(self, old: SealedEnv, sealed: bytes) -> bool:
        self._store.check_writable()
        if self._store.envs.get(JobId(old.job_id)) != old.sealed:
            return False
        self._store.envs[JobId(old.job_id)] = sealed
        return True
