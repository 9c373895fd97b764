"""CheckpointService: a job's checkpoints, listed and shown."""

from typing import Any

from perstack.v1 import checkpoints_pb2 as pb
from perstack.v1 import checkpoints_pb2_grpc

from perstackd.app.checkpoints import CheckpointLine, Checkpoints, CheckpointView, line_of
from perstackd.domain.ids import JobId
from perstackd.ports.job_documents import JobDocuments
from perstackd.rpc import convert


class CheckpointServicer(checkpoints_pb2_grpc.CheckpointServiceServicer):
    """Thin: every rule is in `app`."""

    def __init__(self, checkpoints: Checkpoints, documents: JobDocuments) -> None:
        self._checkpoints = checkpoints
        self._documents = documents

    async def ListCheckpoints(  # noqa: N802
        self, request: pb.ListCheckpointsRequest, context: Any
    ) -> pb.ListCheckpointsResponse:
        job_id = JobId(request.job_id)
        lines = await self._checkpoints.page(job_id, request.after_seq, request.page_size)
        return pb.ListCheckpointsResponse(checkpoints=[_checkpoint(job_id, line) for line in lines])

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: Any) -> pb.GetCheckpointResponse:  # noqa: N802
        view = await self._checkpoints.get(JobId(request.job_id), request.checkpoint)
        return _view(view, self._documents)


def _checkpoint(job_id: JobId, line: CheckpointLine) -> pb.Checkpoint:
    return pb.Checkpoint(
        job_id=job_id,
        seq=line.seq,
        run_id=line.run_id,
        parent_run_id=line.parent_run_id,
        expert_key=line.expert_key,
        step_number=line.step,
        timestamp=line.timestamp,
        outcome=line.outcome,
        messages=line.messages,
        pending_calls=line.pending,
        usage=convert.usage(line.usage),
    )


def _view(view: CheckpointView, documents: JobDocuments) -> pb.GetCheckpointResponse:
    found = view.checkpoint
    start = found.start
    return pb.GetCheckpointResponse(
        checkpoint=_checkpoint(found.job_id, line_of(found)),
        call_id=found.call_id,
        expert_version=view.expert.version,
        expert_digest=view.expert_digest,
        definition_digest=view.definition_digest,
        provider=start.provider if start else "",
        model=start.model if start else "",
        messages=documents.write_value(found.state.messages),
        pending=documents.write_value(found.pending),
        results=documents.write_value(found.partial),
        todos=documents.write_value(found.state.todos),
        required_env=view.required_env,
        env_paths=view.env_paths,
    )
