"""Between the daemon's messages and the proxy's own values. Protobuf stops here and in `control`."""

from perstack.v1 import egress_pb2 as pb

from perstack_egress.connection import Outcome
from perstack_egress.explain import Explanation
from perstack_egress.policy import Policy, Route, parse_policy, parse_route
from perstack_egress.refusal import Refused


class RuleInvalid(Exception):  # noqa: N818 - an answer
    """A rule or a route that is none; the text says which."""


def policy(message: pb.EgressPolicy) -> Policy:
    """Raises RuleInvalid."""
    try:
        routes = [_route(route) for route in message.routes]
        return parse_policy(((rule.host, rule.port) for rule in message.rules), message.allow_addresses, routes)
    except Refused as refused:
        raise RuleInvalid(refused.detail) from None
    except ValueError as error:
        raise RuleInvalid(str(error)) from None


def _route(message: pb.OriginRoute) -> Route:
    headers = ((header.name, header.value) for header in message.headers)
    return parse_route(message.name, message.host, message.port, headers)


def access(sandbox_id: str, outcome: Outcome) -> pb.FromEgress:
    """The report of a connection."""
    return pb.FromEgress(
        access=pb.Access(
            sandbox_id=sandbox_id,
            host=outcome.host,
            port=outcome.port,
            allowed=outcome.allowed,
            reason=outcome.reason,
            bytes_up=outcome.counts.up,
            bytes_down=outcome.counts.down,
            duration_ms=min(int(outcome.seconds * 1000), 0xFFFFFFFF),
        )
    )


def explained(request_id: int, found: Explanation) -> pb.FromEgress:
    """The answer to Explain."""
    explanation = pb.EgressExplanation(
        allowed=found.allowed,
        reason=found.reason,
        detail=found.detail,
        host=found.host,
        port=found.port,
        rule=found.rule,
        addresses=[pb.ExplainedAddress(address=address, refused=why) for address, why in found.addresses],
        remedy=found.remedy,
    )
    return pb.FromEgress(explained=pb.Explained(request_id=request_id, explanation=explanation))
