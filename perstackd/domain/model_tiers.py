"""Which model a tier means: what the operator set for a provider. Pure."""

from collections.abc import Mapping
from typing import Final, TypeAlias

from perstackd.domain.errors import Kind, PerstackError

TIERS: Final = ("low", "middle", "high")

Tiers: TypeAlias = Mapping[str, Mapping[str, str]]
"""By provider, then by tier, the name of a model; empty for none."""


def model_of_tier(tiers: Tiers, provider: str, tier: str) -> str:
    """The model that `tier` means at `provider`.

    Raises:
        PerstackError: PRECONDITION `model_tier_unset`.
    """
    model = tiers.get(provider, {}).get(tier, "")
    if model:
        return model
    raise PerstackError(
        Kind.PRECONDITION,
        "model_tier_unset",
        f"modelTier {tier!r} means no model of the provider {provider[:100]!r} here. Name a `model` instead, or ask "
        f"the operator of perstackd to set models.tiers.{provider[:100]}.{tier}.",
        fields={"provider": provider[:100], "tier": tier},
    )
