"""SecretService: binds requests to `app.secrets`. No reply has a field for a value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perstack.v1 import secrets_pb2 as pb
from perstack.v1 import secrets_pb2_grpc

from perstackd.app.secret_rotation import SecretRotation
from perstackd.app.secrets import SecretOrder, Secrets
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.secret import PROVIDERS, ROUTES, Secret, checked_name, tenant_of, tenant_owner
from perstackd.rpc import convert


@dataclass(frozen=True, slots=True)
class SecretVault:
    """The stored secrets and their keys. `check_provider` raises for a model provider that this daemon has not."""

    secrets: Secrets
    rotation: SecretRotation
    check_provider: Callable[[str], None]


class SecretServicer(secrets_pb2_grpc.SecretServiceServicer):
    """Thin: every rule is in `app`."""

    def __init__(self, vault: SecretVault) -> None:
        self._vault = vault

    async def PutSecret(self, request: pb.PutSecretRequest, context: Any) -> pb.PutSecretResponse:  # noqa: N802
        owner = _owner(request.tenant, provider=request.provider, route=request.route)
        if request.provider:
            self._vault.check_provider(checked_name(owner, request.name))
        experts = tuple(request.experts)
        order = SecretOrder(owner, request.name, request.value, experts, request.all_experts)
        return pb.PutSecretResponse(secret=_secret(await self._vault.secrets.put(order)))

    async def ListSecrets(self, request: pb.ListSecretsRequest, context: Any) -> pb.ListSecretsResponse:  # noqa: N802
        found = self._vault.secrets.listed(_owner(request.tenant, provider=request.providers, route=request.routes))
        return pb.ListSecretsResponse(secrets=[_secret(each) for each in found])

    async def RemoveSecret(self, request: pb.RemoveSecretRequest, context: Any) -> pb.RemoveSecretResponse:  # noqa: N802
        owner = _owner(request.tenant, provider=request.provider, route=request.route)
        return pb.RemoveSecretResponse(secret=_secret(await self._vault.secrets.remove(owner, request.name)))

    async def RotateKeys(self, request: pb.RotateKeysRequest, context: Any) -> pb.RotateKeysResponse:  # noqa: N802
        rotation = self._vault.rotation
        done = await (rotation.master_key(request.master_key) if request.master_key else rotation.data_keys())
        return pb.RotateKeysResponse(
            secrets=done.secrets,
            data_keys=done.data_keys,
            jobs=done.jobs,
            unreadable=done.unreadable,
            master_key_id=done.key_id,
            master_key=done.source,
        )


def _owner(tenant: str, *, provider: bool, route: bool) -> str:
    if provider and route:
        message = "a secret is a provider's key or a value of routes: give one of both"
        raise PerstackError(Kind.INVALID, "secret_name_invalid", message)
    return PROVIDERS if provider else ROUTES if route else tenant_owner(convert.tenant(tenant))


def _secret(secret: Secret) -> pb.Secret:
    return pb.Secret(
        tenant=tenant_of(secret.owner),
        name=secret.name,
        provider=secret.owner == PROVIDERS,
        experts=secret.experts,
        created_at=secret.created_at,
        updated_at=secret.updated_at,
        route=secret.owner == ROUTES,
    )
