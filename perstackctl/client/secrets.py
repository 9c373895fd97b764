"""Methods on stored secrets. Made by `Client.secrets`, for as long as it is open. Values go in and never come back."""

from dataclasses import dataclass, field

import grpc.aio
from perstack.v1 import secrets_pb2 as pb
from perstack.v1 import secrets_pb2_grpc

from perstackctl.client.calling import Call, Explain
from perstackctl.client.errors import UnsupportedError


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """What is known of a secret. `experts` are the keys of those that get it, none means all. Of a model provider's key
    the name is the provider's, and `tenant` is empty; so it is for a `route`, which headers of origin routes name.
    """

    name: str
    tenant: str
    provider: bool
    experts: tuple[str, ...]
    created_at: int
    updated_at: int
    route: bool = False


@dataclass(frozen=True, slots=True)
class NewSecret:
    """A value to store. No `experts` leaves the grants of a secret that is there as they are."""

    name: str
    value: bytes = field(repr=False)
    tenant: str = ""
    provider: bool = False
    experts: tuple[str, ...] = ()
    all_experts: bool = False
    route: bool = False


@dataclass(frozen=True, slots=True)
class RotatedKeys:
    """What was sealed anew. `unreadable` are unfinished jobs whose values no key opens."""

    secrets: int
    data_keys: int
    jobs: int
    unreadable: int
    master_key_id: str
    master_key: str


class SecretStore:
    """Every method raises ClientError and nothing else of the wire. `seconds` bounds a change of keys."""

    def __init__(self, channel: grpc.aio.Channel, call: Call, explain: Explain) -> None:
        self._stub = secrets_pb2_grpc.SecretServiceStub(channel)
        self._call = call
        self._explain = explain

    async def put(self, secret: NewSecret) -> StoredSecret:
        """Store a value; in force when it returns. The same again changes nothing but the time."""
        request = pb.PutSecretRequest(
            tenant=secret.tenant,
            name=secret.name,
            provider=secret.provider,
            value=secret.value,
            experts=secret.experts,
            all_experts=secret.all_experts,
            route=secret.route,
        )
        return _stored((await self._call(self._stub.PutSecret, request)).secret)

    async def list(
        self, tenant: str = "", *, providers: bool = False, routes: bool = False
    ) -> tuple[StoredSecret, ...]:
        """Names, grants and times, by name."""
        request = pb.ListSecretsRequest(tenant=tenant, providers=providers, routes=routes)
        return tuple(map(_stored, (await self._call(self._stub.ListSecrets, request)).secrets))

    async def names(self, tenant: str = "") -> frozenset[str]:
        """Names that are stored for somebody; none at a daemon that stores no secrets."""
        try:
            return frozenset(secret.name for secret in await self.list(tenant))
        except UnsupportedError:
            return frozenset()

    async def remove(self, name: str, tenant: str = "", *, provider: bool = False, route: bool = False) -> StoredSecret:
        """Delete a secret; returns what it was."""
        request = pb.RemoveSecretRequest(tenant=tenant, name=name, provider=provider, route=route)
        return _stored((await self._call(self._stub.RemoveSecret, request, repeat=False)).secret)

    async def rotate(self, master_key: str = "", *, seconds: float = 600.0) -> RotatedKeys:
        """Seal everything anew, with new data keys, or with the master key that is found where `master_key` says."""
        try:
            done = await self._stub.RotateKeys(pb.RotateKeysRequest(master_key=master_key), timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise await self._explain(error) from None
        return RotatedKeys(
            done.secrets, done.data_keys, done.jobs, done.unreadable, done.master_key_id, done.master_key
        )


def _stored(message: pb.Secret) -> StoredSecret:
    return StoredSecret(
        message.name,
        message.tenant,
        message.provider,
        tuple(message.experts),
        message.created_at,
        message.updated_at,
        message.route,
    )
