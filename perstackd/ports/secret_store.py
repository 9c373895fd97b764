"""Stored secrets and the keys above them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from perstackd.domain.secret import DataKey, MasterRotation, SealedEnv, Secret
from perstackd.ports.secrets import Sealer


@dataclass(frozen=True, slots=True)
class KeptSecrets:
    """All that is stored. `master_ids` are the master keys that something in the store is sealed with, the values of
    unfinished jobs included; sorted.
    """

    secrets: tuple[Secret, ...]
    data_keys: tuple[DataKey, ...]
    master_ids: tuple[str, ...]
    rotation: MasterRotation | None


class SecretRows(Protocol):
    """Durable rows of secrets, of their keys, and of jobs' sealed values. What returns is on disk; a row is written
    whole or not at all. Raises PerstackError UNAVAILABLE `store_unavailable` when nothing was kept.
    """

    async def kept(self) -> KeptSecrets:
        """All of it."""
        ...

    async def put(self, secrets: Sequence[Secret], data_keys: Sequence[DataKey] = ()) -> None:
        """Insert or replace, all together."""
        ...

    async def remove(self, owner: str, name: str) -> bool:
        """Delete a secret. False when it was not there."""
        ...

    async def drop_data_keys(self, owner: str, below: int) -> None:
        """Delete the owner's data keys of lower numbers that no secret is sealed with. Idempotent."""
        ...

    async def set_rotation(self, rotation: MasterRotation | None) -> None:
        """Replace the one that is noted, or delete it."""
        ...


class SealedEnvs(Protocol):
    """The sealed values of unfinished jobs, for a change of the master key."""

    async def under_others(self, master_id: str, after: str, limit: int) -> tuple[SealedEnv, ...]:
        """Those that are sealed with another master key, of jobs whose id is above `after`, in order. Sees whatever was
        handed to the store before it was called.
        """
        ...

    async def replace(self, old: SealedEnv, sealed: bytes) -> bool:
        """Put `sealed` in the place of `old`; False when that is not there any more, as when its job has ended."""
        ...


class MasterKeys(Sealer, Protocol):
    """The master keys that are open: one seals, all open what they sealed."""

    @property
    def key_id(self) -> str:
        """Of the one that seals: a hash, safe to show."""
        ...

    @property
    def source(self) -> str:
        """Where that one is found, as `secrets.master_key` names it."""
        ...

    async def take(self, source: str) -> str:
        """Open another one, which from now on opens what it sealed; returns its id. Idempotent.

        Raises:
            PerstackError: what keeps it from being opened, with the remedy.
        """
        ...

    def prefer(self, key_id: str) -> None:
        """Seal with that one from now on. It was taken before."""
        ...

    def new_data_key(self) -> bytes:
        """Random bytes for `data_sealer`."""
        ...

    def data_sealer(self, data_key: bytes) -> Sealer:
        """What seals values with a data key."""
        ...
