"""What the kernel counts of running sandboxes."""

from collections.abc import Collection, Mapping
from typing import Protocol

from perstackd.domain.counters import Counters


class CounterReader(Protocol):
    """Makes no engine call: it is needed most when the engine does not answer."""

    async def read(self, container_ids: Collection[str]) -> Mapping[str, Counters]:
        """Those of the containers that have a cgroup, also when their processes have ended; others are left out."""
        ...
