"""Counters that a test sets; passes tests/contracts/test_counters.py together with the kernel's."""

from collections.abc import Collection, Mapping

from perstackd.domain.counters import Counters


class FakeCounters:
    """`of` are those of containers that have a cgroup; `looks` counts the readings. `failure` is raised by each."""

    def __init__(self) -> None:
        self.of: dict[str, Counters] = {}
        self.looks = 0
        self.failure: Exception | None = None

    async def read(self, container_ids: Collection[str]) -> Mapping[str, Counters]:
        self.looks += 1
        if self.failure is not None:
            raise self.failure
        return {each: self.of[each] for each in container_ids if each in self.of}
