import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A short path: socket paths have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="pd-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def daemon(home: Path) -> Iterator[Daemon]:
    daemon = Daemon(home)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()
