"""A machine whose daemon is killed, or stopped, in the middle of its jobs."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.app.daemon_in_memory import Machine


@pytest.fixture(params=["killed", "stopped"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="back-", dir="/tmp") as directory:
        machine = Machine(Path(directory) / "run")
        machine.stops = request.param == "stopped"
        yield machine
