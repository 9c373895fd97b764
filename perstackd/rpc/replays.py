"""ReplayService: an ended job's law executed again, and its model's side as a conversation."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from perstack.v1 import replays_pb2 as pb
from perstack.v1 import replays_pb2_grpc

from perstackd.app.replay import Replays
from perstackd.domain.events import Payload
from perstackd.domain.ids import JobId
from perstackd.domain.job_comparison import Difference, UnrecordedCall
from perstackd.domain.replay import Divergence
from perstackd.ports.job_documents import JobDocuments
from perstackd.rpc.convert import replay_mode

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

    async def CompareReplay(self, request: pb.CompareReplayRequest, context: Any) -> pb.CompareReplayResponse:  # noqa: N802
        record, found = await self._replays.compare(JobId(request.job_id))
        difference = _difference(found.difference, self._documents) if found.difference else None
        return pb.CompareReplayResponse(
            replayed_job_id=record.parent_job_id,
            replay=replay_mode(record.replay),
            compared=found.compared,
            runs=found.runs,
            divergence=difference,
            unrecorded_calls=[_unrecorded(each) for each in found.unrecorded],
        )

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


def _difference(found: Difference, documents: JobDocuments) -> pb.Divergence:
    """An event of the recorded job beside one of the replay."""
    shown = _events(found.recorded, found.made, documents)
    shown.seq, shown.run_id, shown.expert_key, shown.step_number = found.seq, found.run_id, found.expert_key, found.step
    shown.made_seq, shown.made_run_id, shown.field = found.made_seq, found.made_run_id, found.field
    return shown


def _unrecorded(call: UnrecordedCall) -> pb.UnrecordedCall:
    return pb.UnrecordedCall(
        seq=call.seq,
        run_id=call.run_id,
        expert_key=call.expert_key,
        step_number=call.step,
        tool=call.tool,
        arguments=call.arguments.encode(),
    )


def _divergence(found: Divergence, documents: JobDocuments) -> pb.Divergence:
    shown = _events(found.recorded, found.made, documents)
    shown.seq, shown.run_id, shown.expert_key, shown.step_number = found.seq, found.run_id, found.expert_key, found.step
    return shown


def _events(recorded: Payload | None, made: Payload | None, documents: JobDocuments) -> pb.Divergence:
    return pb.Divergence(
        recorded_type=recorded.type if recorded else "",
        recorded=documents.write_payload(recorded) if recorded else b"",
        made_type=made.type if made else "",
        made=documents.write_payload(made) if made else b"",
    )
