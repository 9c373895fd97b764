"""Time for a night of examples."""

import pytest

from tests.fuzz.bounds import EXAMPLES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A night of examples takes longer than the time that a test has else."""
    for item in items:
        if "tests/fuzz/" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(max(120, EXAMPLES)))
