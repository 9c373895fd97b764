"""The warm pool: started, verified, idle sandboxes that are claimed once and destroyed.

Above it are the jobs and runs, which claim and release; below it the ports of engine, links, workspaces, egress and
store. `domain.pool_plan` decides, this package acts: `keeper` starts and hands out, `endings` removes, `rounds` looks
for what is left over, `pool` is the face.
"""

from perstackd.app.warm_pool.lease import ClaimRequest, Lease
from perstackd.app.warm_pool.pool import WarmPool
from perstackd.app.warm_pool.wiring import PoolLimits, PoolPorts

__all__ = ["ClaimRequest", "Lease", "PoolLimits", "PoolPorts", "WarmPool"]
