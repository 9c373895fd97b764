"""Real mounts below the test's own directory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.workspaces.rig import Rig, rig


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Rig]:
    with rig(tmp_path) as made:
        yield made
