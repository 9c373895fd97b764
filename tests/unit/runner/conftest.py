from collections.abc import Iterator
from pathlib import Path

import pytest
from perstack_runner.tools.tree import Tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "workspace"
    path.mkdir()
    return path


@pytest.fixture
def tree(root: Path) -> Iterator[Tree]:
    made = Tree(str(root), ("/workspace",))
    yield made
    made.close()
