"""ReplayService: an ended job's law executed again, and its model's side as a conversation."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from perstack.v1 import replays_pb2 as pb
from perstack.v1 import replays_pb2_grpc

from perstackd.app.replay import Replays
from perstackd.domain.ids import JobId
from perstackd.domain.replay import Divergence
from perstackd.ports.job_documents import JobDocuments

_REPLY_BYTES: Final = 1 << 20


class ReplayServicer(replays_pb2_grpc.ReplayServiceServicer):
    """Thin: every rule is in `app`."""

    def __init__(self, replays: Replays, documents: JobDocuments) -> None:
        self._replays = replays
        self._documents = documents

    async def ReplayJob(self, request: pb.ReplayJobRequest, context: Any) -> pb.ReplayJobResponse:  # noqa: N802
        found = await self._replays.replay(JobId(request.job_id))
        divergence = _divergence(found.divergence, self._documents) if found.divergence else None
        return pb.ReplayJobResponse(events=found.events, compared=found.facts, runs=found.runs, divergence=divergence)

    async def RecordJob(self, request: pb.RecordJobRequest, context: Any) -> AsyncIterator[pb.RecordJobResponse]:  # noqa: N802
        held: list[bytes] = []
        async with aclosing(self._replays.record(JobId(request.job_id))) as lines:
            async for line in lines:
                held.append(f"{line}\n".encode())
                if sum(map(len, held)) >= _REPLY_BYTES:
                    yield pb.RecordJobResponse(lines=b"".join(held))
                    held.clear()
        if held:
            yield pb.RecordJobResponse(lines=b"".join(held))


def _divergence(found: Divergence, documents: JobDocuments) -> pb.Divergence:
    recorded, made = found.recorded, found.made
    return pb.Divergence(
        seq=found.seq,
        run_id=found.run_id,
        expert_key=found.expert_key,
        step_number=found.step,
        recorded_type=recorded.type if recorded else "",
        recorded=documents.write_payload(recorded) if recorded else b"",
        made_type=made.type if made else "",
        made=documents.write_payload(made) if made else b"",
    )
