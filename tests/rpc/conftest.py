"""A daemon that says what it is told, and calls of the real program to it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.daemon_api import FakeDaemon
from tests.rpc.ctl_program import Ctl


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[FakeDaemon]:
    async with FakeDaemon(str(tmp_path / "p.sock")) as daemon:
        yield daemon


@pytest.fixture
def ctl(daemon: FakeDaemon, tmp_path: Path) -> Ctl:
    project = tmp_path / "project"
    project.mkdir()
    (project / "perstack.toml").write_text('[experts."fitness-assistant"]\ninstruction = "x"\n')
    return Ctl(daemon.path, project)
