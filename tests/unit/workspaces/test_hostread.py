import os
import socket
from pathlib import Path

import pytest

from perstackd.adapters.workspaces.hostread import read_beneath
from perstackd.domain.errors import Kind, PerstackError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "inner").mkdir(parents=True)
    (root / "inner" / "log").write_text("12345")
    (tmp_path / "outside").write_text("secret")
    return root


def refusal(root: Path, relative: str, limit: int = 100) -> tuple[Kind, str]:
    with pytest.raises(PerstackError) as error:
        read_beneath(str(root), relative, limit)
    return error.value.kind, error.value.reason


def test_a_regular_file_is_read_by_path_and_by_descriptor(tree: Path) -> None:
    assert read_beneath(str(tree), "inner/log", 5) == b"12345"
    descriptor = os.open(tree, os.O_PATH)
    assert read_beneath(descriptor, "inner/log", 5) == b"12345"
    os.close(descriptor)


def test_a_file_above_the_limit_is_refused(tree: Path) -> None:
    assert refusal(tree, "inner/log", 4) == (Kind.EXHAUSTED, "workspace_file_too_large")


def test_a_missing_file_is_not_found(tree: Path) -> None:
    for missing in ("nothing", "inner/log/below", "inner/nothing", ""):
        assert refusal(tree, missing) == (Kind.NOT_FOUND, "workspace_file_not_found")


def test_no_way_leads_out_of_the_tree_and_no_link_is_followed(tree: Path) -> None:
    (tree / "to-file").symlink_to("inner/log")
    (tree / "to-directory").symlink_to("inner")
    (tree / "out").symlink_to(tree.parent / "outside")
    for path in (
        "../outside",
        str(tree.parent / "outside"),
        "to-file",
        "to-directory/log",
        "out",
        "inner/../../outside",
    ):
        assert refusal(tree, path) == (Kind.DENIED, "workspace_file_refused")


def test_directories_fifos_sockets_and_zero_bytes_are_refused_without_waiting(tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    directory = os.open(tree, os.O_PATH)
    listener.bind(f"/proc/self/fd/{directory}/socket")  # a short path, however long the directory is
    os.close(directory)
    listener.close()
    for path in ("inner", ".", "fifo", "socket", "inner/log\0x"):
        assert refusal(tree, path) == (Kind.DENIED, "workspace_file_refused")


def test_a_root_that_is_a_link_is_refused(tree: Path) -> None:
    (tree.parent / "link").symlink_to(tree)
    assert refusal(tree.parent / "link", "inner/log") == (Kind.DENIED, "workspace_file_refused")
