"""Prints how to run the same again."""

from typing import Any

import pytest

from tests.fuzz.bounds import EXAMPLES, SEED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"fuzz: PERSTACK_FUZZ_SEED={SEED} PERSTACK_FUZZ_EXAMPLES={EXAMPLES}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A night of examples takes longer than the time that a test has else."""
    for item in items:
        if "tests/fuzz/" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(max(120, EXAMPLES)))
