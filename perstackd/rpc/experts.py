"""ExpertService: what a definition says, without running it."""

from typing import Any

from anyio import to_thread
from perstack.v1 import experts_pb2 as pb
from perstack.v1 import experts_pb2_grpc

from perstackd.app.jobs import Jobs
from perstackd.domain.errors import PerstackError
from perstackd.rpc import convert
from perstackd.rpc.expert_convert import Terms, resolution


class ExpertServicer(experts_pb2_grpc.ExpertServiceServicer):
    """Thin: every rule is in `app.job_request`."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def Resolve(self, request: pb.ResolveRequest, context: Any) -> pb.ResolveResponse:  # noqa: N802
        toml, source = request.definition.toml, request.definition.source[:4096] or "perstack.toml"
        try:
            found = await self._jobs.resolve(toml, source, request.expert_key)
        except PerstackError as error:
            if not request.report_errors or error.reason != "definition_invalid":
                raise
            return pb.ResolveResponse(findings=map(convert.finding, await self._jobs.findings(toml, source)))
        terms = Terms(self._jobs.defaults, self._jobs.base_tools)
        # In a thread: digests of a thousand experts take a while, and the loop is everyone's.
        return await to_thread.run_sync(resolution, found, terms)
