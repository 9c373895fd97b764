"""Methods on jobs' logs: checkpoints, replay, files, deletion. Made by `Client.logs`, for as long as it is open."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
from perstack.v1 import (
    checkpoints_pb2,
    checkpoints_pb2_grpc,
    replays_pb2,
    replays_pb2_grpc,
    retention_pb2,
    retention_pb2_grpc,
    transfers_pb2,
    transfers_pb2_grpc,
)

from perstackctl.client import convert
from perstackctl.client.calling import Call, Explain
from perstackctl.client.checkpoints import (
    Checkpoint,
    CheckpointContent,
    Difference,
    Divergence,
    ImportedJob,
    LiveReplay,
    Replay,
    UnrecordedCall,
)
from perstackctl.client.errors import ProtocolError
from perstackctl.client.sending import send_all

_PAGE: Final = 1000
_PIECE: Final = 512 << 10
_LONG_SECONDS: Final = 3600.0
"""Of a whole export or import, and of a replay: they read all of a log."""


@dataclass(frozen=True, slots=True)
class ErasedTenant:
    """How many were deleted. `unfinished` jobs go on; `left` says what else was left and why."""

    jobs: int
    unfinished: int
    secrets: int
    workspaces: int
    left: tuple[str, ...]


class JobLogs:
    """Every method raises ClientError and nothing else of the wire."""

    def __init__(self, channel: grpc.aio.Channel, call: Call, explain: Explain) -> None:
        self._channel = channel
        self._call = call
        self._explain = explain

    async def list_checkpoints(self, job_id: str) -> AsyncGenerator[Checkpoint, None]:
        """The checkpoints of all runs of a job, in the order of its log; pages are fetched as they are needed."""
        stub, seq = checkpoints_pb2_grpc.CheckpointServiceStub(self._channel), 0
        while True:
            request = checkpoints_pb2.ListCheckpointsRequest(job_id=job_id, after_seq=seq, page_size=_PAGE)
            page = await self._call(stub.ListCheckpoints, request)
            for message in page.checkpoints:
                seq = message.seq
                yield _checkpoint(message)
            if len(page.checkpoints) < _PAGE:
                return

    async def get_checkpoint(self, job_id: str, checkpoint: str = "") -> CheckpointContent:
        """One checkpoint: the number of its event, or RUN/STEP; empty is the coordinator's last."""
        stub = checkpoints_pb2_grpc.CheckpointServiceStub(self._channel)
        request = checkpoints_pb2.GetCheckpointRequest(job_id=job_id, checkpoint=checkpoint)
        return _content(await self._call(stub.GetCheckpoint, request))

    async def replay_job(self, job_id: str) -> Replay:
        """Have the daemon decide all of an ended job's events anew."""
        stub = replays_pb2_grpc.ReplayServiceStub(self._channel)
        try:
            found = await stub.ReplayJob(replays_pb2.ReplayJobRequest(job_id=job_id), timeout=_LONG_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise await self._explain(error) from None
        divergence = _divergence(found.divergence) if found.HasField("divergence") else None
        return Replay(found.events, found.compared, found.runs, divergence)

    async def compare_replay(self, job_id: str) -> LiveReplay:
        """Compare an ended replay with the job that it does again.

        Raises:
            PreconditionError: reason `job_not_ended`, `job_not_replay`, `replayed_job_gone`.
        """
        stub = replays_pb2_grpc.ReplayServiceStub(self._channel)
        try:
            found = await stub.CompareReplay(replays_pb2.CompareReplayRequest(job_id=job_id), timeout=_LONG_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise await self._explain(error) from None
        return _live_replay(job_id, found)

    async def record_job(self, job_id: str) -> AsyncGenerator[bytes, None]:
        """The job's model turns as a conversation file, piece by piece."""
        stub = replays_pb2_grpc.ReplayServiceStub(self._channel)
        stream = stub.RecordJob(replays_pb2.RecordJobRequest(job_id=job_id), timeout=_LONG_SECONDS)
        try:
            async for reply in stream:
                yield reply.lines
        except grpc.aio.AioRpcError as error:
            raise await self._explain(error) from None

    async def export_job(self, job_id: str) -> AsyncGenerator[bytes, None]:
        """The file of an ended job, piece by piece; it is good only once it came to its end without an error."""
        stub = transfers_pb2_grpc.TransferServiceStub(self._channel)
        stream = stub.ExportJob(transfers_pb2.ExportJobRequest(job_id=job_id), timeout=_LONG_SECONDS)
        try:
            async for reply in stream:
                yield reply.data
        except grpc.aio.AioRpcError as error:
            raise await self._explain(error) from None

    async def import_job(self, pieces: AsyncIterator[bytes], tenant: str = "") -> ImportedJob:
        """Send an exported job's file. The same job again changes nothing.

        Raises:
            InvalidError: reason `import_invalid`; PreconditionError: `import_newer`, `event_newer`; ConflictError:
                `import_conflict`. Nothing was written.
        """
        stub = transfers_pb2_grpc.TransferServiceStub(self._channel)
        try:
            reply = await send_all(stub.ImportJob(timeout=_LONG_SECONDS), _requests(pieces, tenant))
        except grpc.aio.AioRpcError as error:
            raise await self._explain(error) from None
        return ImportedJob(convert.job(reply.job), reply.known)

    async def delete_jobs(self, job_ids: Iterable[str]) -> tuple[str, ...]:
        """Delete ended jobs; returns those that were deleted."""
        stub = retention_pb2_grpc.RetentionServiceStub(self._channel)
        request = retention_pb2.DeleteJobsRequest(job_ids=job_ids)
        return tuple((await self._call(stub.DeleteJobs, request, repeat=False)).job_ids)

    async def erase_tenant(self, tenant: str, *, jobs_only: bool = False) -> ErasedTenant:
        """Delete all that is kept of a tenant: ended jobs, stored secrets, named workspaces; or the jobs alone."""
        stub = retention_pb2_grpc.RetentionServiceStub(self._channel)
        request = retention_pb2.EraseTenantRequest(tenant=tenant, jobs_only=jobs_only)
        try:
            reply = await stub.EraseTenant(request, timeout=_LONG_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise await self._explain(error) from None
        return ErasedTenant(reply.deleted, reply.unfinished, reply.secrets, reply.workspaces, tuple(reply.left))


async def _requests(pieces: AsyncIterator[bytes], tenant: str) -> AsyncIterator[transfers_pb2.ImportJobRequest]:
    yield transfers_pb2.ImportJobRequest(tenant=tenant)
    async for piece in pieces:
        for offset in range(0, len(piece), _PIECE):
            yield transfers_pb2.ImportJobRequest(data=piece[offset : offset + _PIECE])


def _checkpoint(m: checkpoints_pb2.Checkpoint) -> Checkpoint:
    run = (m.run_id, m.parent_run_id, m.expert_key, m.step_number)
    return Checkpoint(
        m.job_id, m.seq, *run, m.timestamp, m.outcome, m.messages, m.pending_calls, convert.usage(m.usage)
    )


def _content(m: checkpoints_pb2.GetCheckpointResponse) -> CheckpointContent:
    return CheckpointContent(
        checkpoint=_checkpoint(m.checkpoint),
        call_id=m.call_id,
        expert_version=m.expert_version,
        expert_digest=m.expert_digest,
        definition_digest=m.definition_digest,
        provider=m.provider,
        model=m.model,
        messages=_document(m.messages, list),
        pending=_document(m.pending, list),
        results=_document(m.results, list),
        todos=_document(m.todos, list),
        required_env=tuple(m.required_env),
        env_paths=tuple(m.env_paths),
    )


def _divergence(m: replays_pb2.Divergence) -> Divergence:
    recorded = _document(m.recorded, dict) if m.recorded else None
    made = _document(m.made, dict) if m.made else None
    return Divergence(m.seq, m.run_id, m.expert_key, m.step_number, recorded, made)


def _live_replay(job_id: str, m: replays_pb2.CompareReplayResponse) -> LiveReplay:
    unrecorded = tuple(
        UnrecordedCall(u.seq, u.run_id, u.expert_key, u.step_number, u.tool, _document(u.arguments, dict))
        for u in m.unrecorded_calls
    )
    difference = _difference(m.divergence) if m.HasField("divergence") else None
    mode = convert.replay_mode(m.replay)
    return LiveReplay(job_id, m.replayed_job_id, mode, m.compared, m.runs, difference, unrecorded)


def _difference(m: replays_pb2.Divergence) -> Difference:
    recorded = _document(m.recorded, dict) if m.recorded else None
    made = _document(m.made, dict) if m.made else None
    runs = (m.seq, m.run_id, m.made_seq, m.made_run_id)
    return Difference(*runs, m.expert_key, m.step_number, m.field, recorded, made)


def _document(data: bytes, kind: type) -> Any:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise ProtocolError("the daemon's reply does not hold the JSON that it should; compare the versions")
    return value
