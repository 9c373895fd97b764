from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from perstack_runner import link
from perstack_runner.tools.tree import Tree

from tests.fakes.runner_called import Scene, scene_at


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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries to reach the daemon that follow each other closely."""
    monkeypatch.setattr(link, "FIRST_DELAY", 0.005)
    monkeypatch.setattr(link, "LONGEST_DELAY", 0.01)


@pytest.fixture
async def scene(tmp_path: Path, quick: None) -> AsyncIterator[Scene]:
    async with scene_at(tmp_path / "r.sock") as made:
        yield made
