"""Where the processes of a container are looked for: where the last one's were, else everywhere."""

from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest

from perstackd.adapters.docker import halting
from perstackd.adapters.docker.halting import HostHalts
from perstackd.adapters.workspaces.mountinfo import MountPoint

pytestmark = pytest.mark.anyio


class Hierarchy:
    """A directory in the place of a cgroup hierarchy. `ended` are the cgroups that were emptied, `searches` how often
    it was looked through.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ended: list[tuple[str, ...]] = []
        self.searches = 0

    def container(self, *below: str, before: str = "", after: str = "") -> str:
        name = token_hex(32)
        for each in below:
            (self.root / each / f"{before}{name}{after}").mkdir(parents=True)
        return name

    def mounts(self) -> Iterator[MountPoint]:
        self.searches += 1
        yield MountPoint(1, str(self.root), "cgroup2", frozenset(), shared=False)

    def end(self, paths: tuple[str, ...], _container: str) -> tuple[str, ...]:
        self.ended.append(tuple(Path(path).relative_to(self.root).parts[0] for path in paths))
        return ()


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hierarchy:
    made = Hierarchy(tmp_path / "cgroup")
    made.root.mkdir()
    monkeypatch.setattr(halting, "_hierarchies", made.mounts)
    monkeypatch.setattr(halting, "end_cgroups", made.end)
    return made


@pytest.mark.parametrize(("before", "after"), [("", ""), ("docker-", ".scope")], ids=["cgroupfs", "systemd"])
async def test_the_next_container_is_found_without_a_search_and_one_elsewhere_with_one(
    hierarchy: Hierarchy, before: str, after: str
) -> None:
    first, second = (hierarchy.container("docker", before=before, after=after) for _ in range(2))
    elsewhere = hierarchy.container("other.slice", before="docker-", after=".scope")
    halts = HostHalts()
    for name in (first, second):
        await halts.halt(name)
    assert (hierarchy.ended, hierarchy.searches) == ([("docker",), ("docker",)], 1)
    await halts.halt(elsewhere)
    assert (hierarchy.ended[2:], hierarchy.searches) == ([("other.slice",)], 2)


async def test_all_cgroups_of_a_container_that_has_several_are_emptied_and_so_are_the_next_ones(
    hierarchy: Hierarchy,
) -> None:
    halts = HostHalts()
    for _ in range(2):
        await halts.halt(hierarchy.container("docker", "podman"))
    assert [sorted(paths) for paths in hierarchy.ended] == [["docker", "podman"]] * 2
    assert hierarchy.searches == 2


async def test_one_that_has_ended_is_nothing_and_the_place_is_remembered(hierarchy: Hierarchy) -> None:
    halts = HostHalts()
    await halts.halt(hierarchy.container("docker"))
    await halts.halt(token_hex(32))
    await halts.halt(hierarchy.container("docker"))
    assert (hierarchy.ended, hierarchy.searches) == ([("docker",), (), ("docker",)], 2)


async def test_a_directory_of_its_name_where_the_daemon_runs_is_not_taken_for_it(
    hierarchy: Hierarchy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = hierarchy.container("docker")
    (tmp_path / name).mkdir()
    await HostHalts().halt(name)
    assert hierarchy.ended == [("docker",)]
