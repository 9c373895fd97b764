"""What this kernel counts of real containers, read past the engine."""

import asyncio

import pytest

from perstackd.adapters.docker.counters import HostCounters
from perstackd.adapters.docker.engine import DockerSandboxes
from perstackd.domain.counters import Counters
from tests.integration.docker.rig import Rig, docker

pytestmark = [pytest.mark.anyio, pytest.mark.docker]
EATER = "x = bytearray(600 << 20)"
FORKS = "import os\nfor _ in range(600):\n  if os.fork() == 0: os.execvp('sleep', ['sleep', '60'])"


async def started(rig: Rig, engine: DockerSandboxes) -> str:
    record = rig.record()
    directories = await asyncio.to_thread(rig.directories, record)
    return await engine.start(record, rig.template(), directories)


def inside(container: str, script: str) -> str:
    return docker("exec", container, "sh", "-c", f'python3 -c "{script}" 2>&1 | tail -1; true')


async def test_ends_for_want_of_memory_and_refused_processes_are_counted(rig: Rig, engine: DockerSandboxes) -> None:
    counters, container, other = HostCounters(), await started(rig, engine), await started(rig, engine)
    assert await counters.read([container, other]) == {container: Counters(), other: Counters()}
    inside(container, EATER)
    eaten = (await counters.read([container]))[container]
    # How often the limit was reached is not asked: newer kernels have stopped counting that in version 1.
    assert (eaten.oom_kills, eaten.refused_processes, eaten.ended) == (1, 0, False)
    assert "BlockingIOError" in inside(container, FORKS)
    forked = (await counters.read([container]))[container]
    assert (forked.oom_kills, forked.refused_processes > 0) == (1, True)
    assert await counters.read([other]) == {other: Counters()}


async def test_a_container_that_was_removed_has_no_counters(rig: Rig, engine: DockerSandboxes) -> None:
    counters, container = HostCounters(), await started(rig, engine)
    assert list(await counters.read([container])) == [container]
    docker("kill", container)
    async with asyncio.timeout(10):
        while found := await counters.read([container]):
            assert not found[container].oom_kills
            await asyncio.sleep(0.05)
