"""ExpertService: what a definition says, without running it."""

from typing import Any

from perstack.v1 import experts_pb2 as pb
from perstack.v1 import experts_pb2_grpc

from perstackd.app.jobs import Jobs
from perstackd.domain.expert import Expert
from perstackd.domain.expert_digest import expert_digest
from perstackd.rpc import convert


class ExpertServicer(experts_pb2_grpc.ExpertServiceServicer):
    """Thin: every rule is in `app.job_request`."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def Resolve(self, request: pb.ResolveRequest, context: Any) -> pb.ResolveResponse:  # noqa: N802
        source = request.definition.source[:4096] or "perstack.toml"
        found = await self._jobs.resolve(request.definition.toml, source, request.expert_key)
        model = self._jobs.model_of(found)
        return pb.ResolveResponse(
            experts=[_expert(expert) for expert in found.experts],
            required_env=found.required_env,
            env_paths=found.definition.env_paths,
            findings=[convert.finding(finding) for finding in found.findings],
            provider=model.provider,
            model=model.model,
        )


def _expert(expert: Expert) -> pb.ResolvedExpert:
    return pb.ResolvedExpert(
        key=expert.key,
        version=expert.version,
        description=expert.description,
        delegates=expert.delegates,
        skills=[skill.name for skill in expert.skills],
        digest=expert_digest(expert),
    )
