"""Stored secrets: put, listed, removed, and given to runs. All of it is in memory as well, sealed, so that a run that is
claimed waits for no disk, and a new value counts from the moment that it is durable.

Above are the servicer, the jobs and the providers' adapters; below are the rows and the keys. Changes are made one after
the other. Values leave through `released` and `provider_key` only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


import anyio
import structlog

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.expert import Expert
from perstackd.domain.ids import TenantId
from perstackd.domain.secret import (
    MAX_SECRETS,
    PROVIDERS,
    DataKey,
    Secret,
    checked_experts,
    checked_name,
    checked_value,
    tenant_owner,
    without_value,
)
from perstackd.ports.clock import Clock
from perstackd.ports.secret_store import KeptSecrets, MasterKeys, SecretRows
from perstackd.ports.secrets import Sealer

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SecretOrder:
    """A value to store. No `experts` leaves the grants of a secret that is there as they are, and grants a new one to
    all; `all_experts` takes a restriction away.
    """

    owner: str
    name: str
    value: bytes = field(repr=False)
    experts: tuple[str, ...] = ()
    all_experts: bool = False


class Secrets:
    """Made by `opened`. Names, grants and times are safe to show; `Secret.sealed` is of no use without the keys."""

    def __init__(self, rows: SecretRows, keys: MasterKeys, clock: Clock, kept: KeptSecrets) -> None:
        self.rows = rows
        self.keys = keys
        self.changing = anyio.Lock()
        self._clock = clock
        self._secrets = {(each.owner, each.name): each for each in kept.secrets}
        self._data_keys = {(each.owner, each.number): each for each in kept.data_keys}
        self._sealers: dict[tuple[str, int], Sealer] = {}

    @classmethod
    async def opened(cls, rows: SecretRows, keys: MasterKeys, clock: Clock) -> "Secrets":
        """With all that is stored. Raises PerstackError UNAVAILABLE `store_unavailable`."""
        return cls(rows, keys, clock, await rows.kept())

    # --- changes ----------------------------------------------------------------------------------------------------
    async def put(self, order: SecretOrder) -> Secret:
        """Store a value, durable and in force on return; it replaces one of that name.

        Raises:
            PerstackError: INVALID `secret_name_invalid`, `secret_value_invalid`, `secret_grant_invalid`; EXHAUSTED
                `too_many_secrets`; UNAVAILABLE `store_unavailable`: nothing was changed.
        """
        owner, name = order.owner, checked_name(order.owner, order.name)
        value, experts = checked_value(order.value), checked_experts(owner, order.experts)
        if order.all_experts and experts:
            message = "a secret is granted to the experts that are named, or to all: give one of both"
            raise PerstackError(Kind.INVALID, "secret_grant_invalid", message)
        async with self.changing:
            old = self._secrets.get((owner, name))
            self._check_room(owner, old)
            key, new_keys = self._data_key(owner)
            now = self._clock.now_ms()
            granted = experts or (() if old is None or order.all_experts else old.experts)
            secret = Secret(owner, name, granted, key.number, b"", old.created_at if old else now, now)
            secret = replace(secret, sealed=self._sealer(key).seal(value, secret.context))
            await self.rows.put([secret], new_keys)
            self.adopt([secret], new_keys)
        _log.info("secret stored", owner=owner, name=name, experts=list(granted))
        return secret

    async def remove(self, owner: str, name: str) -> Secret:
        """Delete a secret, durable on return; runs that were given it keep it until their sandboxes end.

        Raises:
            PerstackError: NOT_FOUND `secret_not_found`; UNAVAILABLE `store_unavailable`.
        """
        async with self.changing:
            secret = self._secrets.get((owner, name))
            if secret is None:
                message = f"there is no secret {name[:128]!r}; perstackctl secret ls lists them"
                raise PerstackError(Kind.NOT_FOUND, "secret_not_found", message)
            await self.rows.remove(owner, name)
            del self._secrets[owner, name]
        _log.info("secret removed", owner=owner, name=name)
        return secret

    def adopt(self, secrets: Sequence[Secret], data_keys: Sequence[DataKey] = ()) -> None:
        """Take over what is durable now; by who holds `changing`."""
        for key in data_keys:
            self._data_keys[key.owner, key.number] = key
        for secret in secrets:
            self._secrets[secret.owner, secret.name] = secret

    def forget_data_keys(self, owner: str, below: int) -> None:
        """The owner's data keys of lower numbers are not there any more; by who holds `changing`."""
        for place in [place for place in self._data_keys if place[0] == owner and place[1] < below]:
            del self._data_keys[place]
            self._sealers.pop(place, None)

    # --- questions --------------------------------------------------------------------------------------------------
    def listed(self, owner: str) -> tuple[Secret, ...]:
        """The owner's secrets by name."""
        return tuple(sorted((each for each in self._secrets.values() if each.owner == owner), key=lambda s: s.name))

    def owners(self) -> tuple[str, ...]:
        """Who has secrets or a data key, sorted."""
        return tuple(sorted({owner for owner, _ in (*self._secrets, *self._data_keys)}))

    def data_keys(self, owner: str) -> tuple[DataKey, ...]:
        """The owner's data keys, oldest first."""
        return tuple(sorted((key for key in self._data_keys.values() if key.owner == owner), key=lambda k: k.number))

    def granted(self, tenant: TenantId, expert_key: str) -> frozenset[str]:
        """Names that the expert gets from the tenant's store."""
        owner = tenant_owner(tenant)
        return frozenset(each.name for each in self.listed(owner) if each.granted_to(expert_key))

    def released(self, tenant: TenantId, expert: Expert, sent: Mapping[str, str]) -> Mapping[str, str]:
        """The values of what the expert requires: as they were sent with the job, else as they are stored and granted
        to it.

        Raises:
            PerstackError: PRECONDITION `secret_missing` when one was removed or its grant taken back since the job was
                accepted; `seal_broken`.
        """
        names = expert.required_env
        if missing := without_value(names, sent, self.granted(tenant, expert.key)):
            message = (
                f"the secrets {', '.join(missing)}, which the expert {expert.key!r} requires, were removed or are not "
                "granted to it any more; perstackctl secret put stores them again"
            )
            raise PerstackError(Kind.PRECONDITION, "secret_missing", message)
        owner = tenant_owner(tenant)
        return {name: sent[name] if name in sent else self._value(self._secrets[owner, name]) for name in names}

    def provider_key(self, provider: str) -> str | None:
        """The stored key of a model provider. Raises PerstackError PRECONDITION `seal_broken`."""
        secret = self._secrets.get((PROVIDERS, provider))
        return None if secret is None else self._value(secret)

    def value(self, secret: Secret) -> bytes:
        """What is sealed in it. Raises PerstackError PRECONDITION `seal_broken`."""
        return self._sealer(self._data_keys[secret.owner, secret.key_number]).open(secret.sealed, secret.context)

    def sealed_anew(self, secret: Secret, key: DataKey) -> Secret:
        """The secret under another data key of its owner."""
        return replace(secret, key_number=key.number, sealed=self._sealer(key).seal(self.value(secret), secret.context))

    def new_data_key(self, owner: str) -> DataKey:
        """A key with the next number, wrapped by the master key; not stored yet."""
        number = max((key.number for key in self.data_keys(owner)), default=0) + 1
        plain = self.keys.new_data_key()
        key = DataKey(owner, number, self.keys.key_id, b"", self._clock.now_ms())
        return replace(key, wrapped=self.keys.seal(plain, key.context))

    # --- inside -----------------------------------------------------------------------------------------------------
    def _value(self, secret: Secret) -> str:
        return self.value(secret).decode("utf-8")

    def _data_key(self, owner: str) -> tuple[DataKey, tuple[DataKey, ...]]:
        """The key that seals the owner's values, and whether it is new."""
        keys = self.data_keys(owner)
        if keys:
            return keys[-1], ()
        key = self.new_data_key(owner)
        return key, (key,)

    def _sealer(self, key: DataKey) -> Sealer:
        place = (key.owner, key.number)
        if place not in self._sealers:
            sealer = self.keys.data_sealer(self.keys.open(key.wrapped, key.context))
            if place not in self._data_keys:  # it may never be stored, and its number be given to another one
                return sealer
            self._sealers[place] = sealer
        return self._sealers[place]

    def _check_room(self, owner: str, old: Secret | None) -> None:
        if old is None and len(self.listed(owner)) >= MAX_SECRETS:
            message = f"there are {MAX_SECRETS} secrets, which is the limit; remove one (perstackctl secret rm)"
            raise PerstackError(Kind.EXHAUSTED, "too_many_secrets", message)


