"""Stored secrets: put, listed, removed, and given to runs. All of it is in memory as well, sealed, so that a run that
is claimed waits for no disk, and a new value counts from the moment that it is durable.

Above are the servicer, the jobs and the providers' adapters; below are the rows and the keys. Changes are made one
after the other. Values leave through `released`, `provider_key` and `route_value` only.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import structlog

from perstackd.app.secret_index import SecretIndex
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.expert import Expert
from perstackd.domain.ids import TenantId
from perstackd.domain.secret import (
    MAX_SECRETS,
    PROVIDERS,
    ROUTES,
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


class ReleasedSecrets(Protocol):
    """What jobs and runs ask of the stored secrets; `Secrets` says what each promises."""

    def granted(self, tenant: TenantId, expert_key: str) -> Collection[str]: ...

    def released(self, tenant: TenantId, expert: Expert, sent: Mapping[str, str]) -> Mapping[str, str]: ...


class SentSecrets:
    """Nothing is stored: what was sent with the job is all that there is."""

    def granted(self, _tenant: TenantId, _expert_key: str) -> Collection[str]:
        return ()

    def released(self, _tenant: TenantId, expert: Expert, sent: Mapping[str, str]) -> Mapping[str, str]:
        return {name: sent[name] for name in expert.required_env if name in sent}


class Secrets:
    """Made by `opened`. Names, grants and times are safe to show; `Secret.sealed` is of no use without the keys. Who
    changes the index holds `changing`.
    """

    def __init__(self, rows: SecretRows, keys: MasterKeys, clock: Clock, kept: KeptSecrets) -> None:
        self.rows = rows
        self.keys = keys
        self.clock = clock
        self.index = SecretIndex(keys, kept)
        self.changing = anyio.Lock()

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
        value = _checked(order)
        owner, name, now = order.owner, order.name, self.clock.now_ms()
        async with self.changing:
            old = self.index.get(owner, name)
            self._check_room(owner, old)
            keys = self.index.data_keys(owner)
            key = keys[-1] if keys else self.index.new_data_key(owner, now)
            experts = checked_experts(owner, order.experts)
            granted = experts or (() if old is None or order.all_experts else old.experts)
            secret = Secret(owner, name, granted, key.number, b"", old.created_at if old else now, now)
            secret = self.index.sealed(secret, key, value)
            new_keys = () if keys else (key,)
            await self.write([secret], new_keys)
        _log.info("secret stored", owner=owner, name=name, experts=list(granted))
        return secret

    async def remove(self, owner: str, name: str) -> Secret:
        """Delete a secret, durable on return; runs that were given it keep it until their sandboxes end.

        Raises:
            PerstackError: NOT_FOUND `secret_not_found`; UNAVAILABLE `store_unavailable`.
        """
        async with self.changing:
            secret = self.index.get(owner, name)
            if secret is None:
                message = f"there is no secret {name[:128]!r}; perstackctl secret ls lists them"
                raise PerstackError(Kind.NOT_FOUND, "secret_not_found", message)
            with anyio.CancelScope(shield=True):  # as in `write`
                await self.rows.remove(owner, name)
                self.index.discard(owner, name)
        _log.info("secret removed", owner=owner, name=name)
        return secret

    async def remove_all(self, owner: str) -> int:
        """Delete every secret of an owner, one after the other; returns how many. As `remove` for what has them."""
        async with self.changing:
            found = self.index.listed(owner)
            for secret in found:
                with anyio.CancelScope(shield=True):  # as in `write`
                    await self.rows.remove(owner, secret.name)
                    self.index.discard(owner, secret.name)
        _log.info("all secrets removed", owner=owner, count=len(found))
        return len(found)

    async def write(self, secrets: Sequence[Secret], data_keys: Sequence[DataKey] = ()) -> None:
        """Durable and in force on return; by who holds `changing`. A caller who hangs up in the middle must not leave a
        row that the index does not know.
        """
        with anyio.CancelScope(shield=True):
            await self.rows.put(secrets, data_keys)
            self.index.adopt(secrets, data_keys)

    # --- questions --------------------------------------------------------------------------------------------------
    def listed(self, owner: str) -> tuple[Secret, ...]:
        """The owner's secrets by name."""
        return self.index.listed(owner)

    def granted(self, tenant: TenantId, expert_key: str) -> frozenset[str]:
        """Names that the expert gets from the tenant's store."""
        stored = self.index.listed(tenant_owner(tenant))
        return frozenset(each.name for each in stored if each.granted_to(expert_key))

    def released(self, tenant: TenantId, expert: Expert, sent: Mapping[str, str]) -> Mapping[str, str]:
        """The values of what the expert requires: as they were sent with the job, else as they are stored and granted
        to it.

        Raises:
            PerstackError: PRECONDITION `secret_missing` when one was removed or its grant taken back since the job was
                accepted; `seal_broken`.
        """
        values = {name: sent[name] for name in expert.required_env if name in sent}
        missing = []
        for name in without_value(expert.required_env, sent):
            secret = self.index.get(tenant_owner(tenant), name)
            if secret is not None and secret.granted_to(expert.key):
                values[name] = self.index.value(secret).decode("utf-8")
            else:
                missing.append(name)
        if missing:
            message = (
                f"the secrets {', '.join(missing)}, which the expert {expert.key!r} requires, were removed or are not "
                "granted to it any more; store them again (perstackctl secret put)"
            )
            raise PerstackError(Kind.PRECONDITION, "secret_missing", message)
        return values

    def provider_key(self, provider: str) -> str | None:
        """The stored key of a model provider. Raises PerstackError PRECONDITION `seal_broken`."""
        secret = self.index.get(PROVIDERS, provider)
        return None if secret is None else self.index.value(secret).decode("utf-8")

    def route_value(self, name: str) -> str | None:
        """The stored value of that name for origin routes. Raises PerstackError PRECONDITION `seal_broken`."""
        secret = self.index.get(ROUTES, name)
        return None if secret is None else self.index.value(secret).decode("utf-8")

    def _check_room(self, owner: str, old: Secret | None) -> None:
        if old is None and len(self.index.listed(owner)) >= MAX_SECRETS:
            message = f"there are {MAX_SECRETS} secrets, which is the limit; remove one (perstackctl secret rm)"
            raise PerstackError(Kind.EXHAUSTED, "too_many_secrets", message)


def _checked(order: SecretOrder) -> bytes:
    """The value of an order in which all is right."""
    checked_name(order.owner, order.name)
    if order.all_experts and order.experts:
        message = "a secret is granted to the experts that are named, or to all: give one of both"
        raise PerstackError(Kind.INVALID, "secret_grant_invalid", message)
    checked_experts(order.owner, order.experts)
    return checked_value(order.value)
