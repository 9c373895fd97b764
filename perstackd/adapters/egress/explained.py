"""The program's answer to a question, in the port's words."""

from perstack.v1 import egress_pb2 as pb

from perstackd.ports.egress import EgressExplanation


def explanation(message: pb.EgressExplanation) -> EgressExplanation:
    """Translate."""
    return EgressExplanation(
        host=message.host,
        port=message.port,
        reason=message.reason,
        detail=message.detail,
        rule=message.rule,
        addresses=tuple((address.address, address.refused) for address in message.addresses),
        remedy=message.remedy,
    )
