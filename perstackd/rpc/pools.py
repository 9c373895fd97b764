"""PoolService: how full the pools are, and why they are not."""

from typing import Any

from perstack.v1 import pools_pb2 as pb
from perstack.v1 import pools_pb2_grpc

from perstackd.app.warm_pool import WarmPool
from perstackd.domain.pool_status import PoolStatus


class PoolServicer(pools_pb2_grpc.PoolServiceServicer):
    """Read-only."""

    def __init__(self, pool: WarmPool) -> None:
        self._pool = pool

    async def ListPools(self, request: pb.ListPoolsRequest, context: Any) -> pb.ListPoolsResponse:  # noqa: N802
        return pb.ListPoolsResponse(pools=[_pool(status) for status in self._pool.status()])


def _pool(status: PoolStatus) -> pb.Pool:
    return pb.Pool(
        template=status.template,
        image=status.image,
        image_id=status.image_id,
        min_idle=status.min_idle,
        max=status.max,
        starting=status.starting,
        idle=status.idle,
        claimed=status.claimed,
        removing=status.removing + status.quarantined,
        waiting=status.waiting,
        halted=status.halted,
        failures=status.failures,
        started_total=status.started_total,
        claimed_total=status.claimed_total,
        refill_p50_ms=status.refill_p50_ms,
        refill_p99_ms=status.refill_p99_ms,
        wanted_idle=status.wanted_idle,
    )
