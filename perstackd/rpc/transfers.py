"""TransferService: ended jobs as files."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from perstack.v1 import transfers_pb2 as pb
from perstack.v1 import transfers_pb2_grpc

from perstackd.app.transfer import Transfer
from perstackd.domain.ids import JobId
from perstackd.rpc import convert

_REPLY_BYTES: Final = 1 << 20


class TransferServicer(transfers_pb2_grpc.TransferServiceServicer):
    """Thin: every rule is in `app`."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer

    async def ExportJob(self, request: pb.ExportJobRequest, context: Any) -> AsyncIterator[pb.ExportJobResponse]:  # noqa: N802
        async with aclosing(self._transfer.export(JobId(request.job_id))) as pieces:
            async for piece in pieces:
                for offset in range(0, len(piece), _REPLY_BYTES):
                    yield pb.ExportJobResponse(data=piece[offset : offset + _REPLY_BYTES])

    async def ImportJob(self, requests: AsyncIterator[pb.ImportJobRequest], context: Any) -> pb.ImportJobResponse:  # noqa: N802
        first = await anext(requests, pb.ImportJobRequest())
        found = await self._transfer.read(_data(first, requests), convert.tenant(first.tenant))
        return pb.ImportJobResponse(job=convert.job(found.record), known=not found.fresh)


async def _data(first: pb.ImportJobRequest, requests: AsyncIterator[pb.ImportJobRequest]) -> AsyncIterator[bytes]:
    yield first.data
    async for request in requests:
        yield request.data
