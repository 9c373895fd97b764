"""EgressService: the dry run of a connection out of a sandbox."""

from typing import Any, Final

from perstack.v1 import egress_pb2 as pb
from perstack.v1 import egress_pb2_grpc

from perstackd.app.egress_rules import EgressDryRun, Verdict
from perstackd.app.job_request import check_domains
from perstackd.app.warm_pool import WarmPool
from perstackd.domain.errors import Kind, PerstackError
from perstackd.rpc.sandboxes import found_sandbox

_PORT: Final = 443
_MAX_HOST: Final = 1024


class EgressServicer(egress_pb2_grpc.EgressServiceServicer):
    """Thin: the rules are in `app.egress_rules`, the judgement is the proxy's own."""

    def __init__(self, dry_run: EgressDryRun, pool: WarmPool) -> None:
        self._dry_run = dry_run
        self._pool = pool

    async def ExplainEgress(self, request: pb.ExplainEgressRequest, context: Any) -> pb.ExplainEgressResponse:  # noqa: N802
        host, port = request.host, request.port or _PORT
        if not host or len(host) > _MAX_HOST or port > 65535:
            message = "give a host of at most 1024 characters, and a port from 1 to 65535 (443 when it is left out)"
            raise PerstackError(Kind.INVALID, "host_invalid", message)
        if request.sandbox_id:
            sandbox_id = found_sandbox(self._pool, request.sandbox_id).id
            return _response([await self._dry_run.of_sandbox(sandbox_id, host, port)])
        allow_domains = tuple(request.allow_domains)
        check_domains(allow_domains)
        definition = (request.definition.toml, request.definition.source[:4096] or "perstack.toml", request.expert_key)
        return _response(await self._dry_run.of_definition(definition, allow_domains, host, port))


def _response(verdicts: list[Verdict]) -> pb.ExplainEgressResponse:
    return pb.ExplainEgressResponse(verdicts=map(_verdict, verdicts))


def _verdict(verdict: Verdict) -> pb.EgressVerdict:
    found = verdict.explanation
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
    return pb.EgressVerdict(
        expert_key=verdict.expert_key, skill=verdict.skill, sandbox_id=verdict.sandbox_id, explanation=explanation
    )
