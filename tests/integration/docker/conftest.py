"""A rig and an adapter on the machine's engine."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from perstackd.adapters.docker.engine import DockerSandboxes
from tests.integration.docker.rig import Rig, remove_containers, shared_directory, waiting_image


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    with waiting_image(), shared_directory(Path(f"/tmp/test-docker-{os.getpid()}")) as root:
        yield Rig(root)


@pytest.fixture
async def engine(rig: Rig) -> AsyncIterator[DockerSandboxes]:
    async with DockerSandboxes(rig.settings) as sandboxes:
        yield sandboxes
    remove_containers()
