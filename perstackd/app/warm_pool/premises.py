"""Where the pool works: what most of its parts need, together."""

from dataclasses import dataclass

from perstackd.app.warm_pool.files import SandboxFiles
from perstackd.app.warm_pool.roster import Roster
from perstackd.app.warm_pool.wiring import PoolLimits, PoolPorts


@dataclass(frozen=True, slots=True)
class Premises:
    """Made once by the pool; `roster` alone changes."""

    ports: PoolPorts
    limits: PoolLimits
    files: SandboxFiles
    roster: Roster
