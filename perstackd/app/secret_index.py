"""All stored secrets and data keys in memory, sealed as they are stored. Opened are data keys only, and stay so."""

from collections.abc import Sequence
from dataclasses import replace

from perstackd.domain.secret import DataKey, Secret
from perstackd.ports.secret_store import KeptSecrets, MasterKeys
from perstackd.ports.secrets import Sealer


class SecretIndex:
    """What is durable. It is changed after the rows were, by one task at a time."""

    def __init__(self, keys: MasterKeys, kept: KeptSecrets) -> None:
        self._keys = keys
        self._secrets = {(each.owner, each.name): each for each in kept.secrets}
        self._data_keys = {(each.owner, each.number): each for each in kept.data_keys}
        self._sealers: dict[tuple[str, int], Sealer] = {}

    # --- changes ----------------------------------------------------------------------------------------------------
    def adopt(self, secrets: Sequence[Secret], data_keys: Sequence[DataKey] = ()) -> None:
        """These are durable now."""
        self._data_keys |= {(key.owner, key.number): key for key in data_keys}
        self._secrets |= {(secret.owner, secret.name): secret for secret in secrets}

    def discard(self, owner: str, name: str) -> None:
        """The secret is not there any more."""
        self._secrets.pop((owner, name), None)

    def forget_data_keys(self, owner: str, below: int) -> None:
        """The owner's data keys of lower numbers are not there any more."""
        for place in [place for place in self._data_keys if place[0] == owner and place[1] < below]:
            del self._data_keys[place]
            self._sealers.pop(place, None)

    # --- questions --------------------------------------------------------------------------------------------------
    def get(self, owner: str, name: str) -> Secret | None:
        """The secret of that name."""
        return self._secrets.get((owner, name))

    def listed(self, owner: str) -> tuple[Secret, ...]:
        """The owner's secrets by name."""
        return tuple(sorted((each for each in self._secrets.values() if each.owner == owner), key=lambda s: s.name))

    def owners(self) -> tuple[str, ...]:
        """Who has a data key, sorted: nobody has a secret without one."""
        return tuple(sorted({owner for owner, _ in self._data_keys}))

    def data_keys(self, owner: str) -> tuple[DataKey, ...]:
        """The owner's data keys, oldest first."""
        return tuple(sorted((key for key in self._data_keys.values() if key.owner == owner), key=lambda k: k.number))

    # --- sealing ----------------------------------------------------------------------------------------------------
    def new_data_key(self, owner: str, now: int) -> DataKey:
        """A key with the next number, wrapped by the master key; not durable yet."""
        number = max((key.number for key in self.data_keys(owner)), default=0) + 1
        key = DataKey(owner, number, self._keys.key_id, b"", now)
        return replace(key, wrapped=self._keys.seal(self._keys.new_data_key(), key.context))

    def wrapped_anew(self, key: DataKey) -> DataKey:
        """The same key under the master key that seals now. Raises PerstackError PRECONDITION `seal_broken`."""
        plain = self._keys.open(key.wrapped, key.context)
        return replace(key, master_id=self._keys.key_id, wrapped=self._keys.seal(plain, key.context))

    def sealed(self, secret: Secret, key: DataKey, value: bytes) -> Secret:
        """The secret with that value under that key."""
        return replace(secret, key_number=key.number, sealed=self._sealer(key).seal(value, secret.context))

    def value(self, secret: Secret) -> bytes:
        """What is sealed in it. Raises PerstackError PRECONDITION `seal_broken`."""
        return self._sealer(self._data_keys[secret.owner, secret.key_number]).open(secret.sealed, secret.context)

    def _sealer(self, key: DataKey) -> Sealer:
        place = (key.owner, key.number)
        if place not in self._sealers:
            sealer = self._keys.data_sealer(self._keys.open(key.wrapped, key.context))
            if place not in self._data_keys:  # it may never be durable, and its number be given to another one
                return sealer
            self._sealers[place] = sealer
        return self._sealers[place]
