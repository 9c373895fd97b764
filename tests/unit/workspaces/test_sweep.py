import itertools
import os
import stat
from pathlib import Path

import pytest

from perstackd.adapters.workspaces.sweep import MAX_DEPTH, MAX_SECONDS, Swept, sweep


def swept(root: Path) -> Swept:
    descriptor = os.open(root, os.O_PATH)
    try:
        return sweep(descriptor)
    finally:
        os.close(descriptor)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_set_id_bits_are_cleared_everywhere_and_nothing_else_changes(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name, bits in {"plain": 0o640, "a/setuid": 0o4755, "a/b/setgid": 0o2711, "a/b/both": 0o6700}.items():
        (tmp_path / name).touch()
        (tmp_path / name).chmod(bits)
    (tmp_path / "a" / "b").chmod(0o3777)
    assert swept(tmp_path) == Swept(entries=6, cleared=4, removed=0, complete=True)
    assert [mode(tmp_path / name) for name in ("plain", "a/setuid", "a/b/setgid", "a/b/both", "a/b")] == [
        0o640,
        0o755,
        0o711,
        0o700,
        0o1777,
    ]


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir()
    tree.mkdir()
    (outside / "tool").touch()
    (outside / "tool").chmod(0o4755)
    (tree / "file").symlink_to(outside / "tool")
    (tree / "directory").symlink_to(outside)
    assert swept(tree) == Swept(entries=2, cleared=0, removed=0, complete=True)
    assert mode(outside / "tool") == 0o4755


@pytest.mark.docker
def test_devices_are_removed_and_fifos_stay(tmp_path: Path) -> None:
    os.mknod(tmp_path / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(tmp_path / "loop", 0o600 | stat.S_IFBLK, os.makedev(7, 0))
    os.mkfifo(tmp_path / "fifo")
    assert swept(tmp_path) == Swept(entries=3, cleared=0, removed=2, complete=True)
    assert os.listdir(tmp_path) == ["fifo"]


def test_a_tree_deeper_than_the_bound_is_reported_as_not_complete(tmp_path: Path) -> None:
    deepest = tmp_path.joinpath(*["d"] * (MAX_DEPTH + 3))
    deepest.mkdir(parents=True)
    found = swept(tmp_path)
    assert not found.complete
    assert found.entries == MAX_DEPTH


def test_a_sweep_ends_at_its_deadline(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / str(number)).touch()
    clock = itertools.count(0, MAX_SECONDS / 5)
    descriptor = os.open(tmp_path, os.O_PATH)
    found = sweep(descriptor, lambda: float(next(clock)))
    os.close(descriptor)
    assert not found.complete
    assert found.entries < 20
