"""What a dry run of a connection says, as values."""

from dataclasses import dataclass

from perstack.v1 import egress_pb2 as pb


@dataclass(frozen=True, slots=True)
class ExplainedAddress:
    """Where a name leads now, and why it is not dialled; "" when it is."""

    address: str
    refused: str


@dataclass(frozen=True, slots=True)
class EgressVerdict:
    """From one sandbox: an expert's own (`skill` is ""), a skill's, or a living one. `reason` is "" when allowed."""

    expert_key: str
    skill: str
    sandbox_id: str
    allowed: bool
    host: str
    port: int
    reason: str
    detail: str
    rule: str
    addresses: tuple[ExplainedAddress, ...]
    remedy: str


def verdict(message: pb.EgressVerdict) -> EgressVerdict:
    """Translate."""
    found = message.explanation
    return EgressVerdict(
        expert_key=message.expert_key,
        skill=message.skill,
        sandbox_id=message.sandbox_id,
        allowed=found.allowed,
        host=found.host,
        port=found.port,
        reason=found.reason,
        detail=found.detail,
        rule=found.rule,
        addresses=tuple(ExplainedAddress(each.address, each.refused) for each in found.addresses),
        remedy=found.remedy,
    )
