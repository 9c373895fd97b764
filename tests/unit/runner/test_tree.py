"""Paths of a hostile workspace."""

import os
import threading
from pathlib import Path

import pytest
from perstack_runner.tools.outcome import ToolFailure
from perstack_runner.tools.tree import MAX_LINKS, Tree


def content(tree: Tree, path: str) -> bytes:
    with tree.place(path) as place:
        descriptor = tree.open_file(place, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def refusal(tree: Tree, path: str) -> str:
    with pytest.raises(ToolFailure) as caught:
        content(tree, path)
    return caught.value.name


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("secret")
    return path


@pytest.mark.parametrize(
    "path",
    [
        "a/f",
        "./a//f",
        "a/../a/f",
        "link",
        "a/up/f",
        "/workspace/a/f",
        "chain0",
        "absolute",
        "a/../../workspace-not",
        "x/..",
    ],
)
def test_paths_inside_resolve(tree: Tree, root: Path, path: str) -> None:
    (root / "a").mkdir()
    (root / "a" / "f").write_text("in")
    (root / "link").symlink_to("a/f")
    (root / "a" / "up").symlink_to("../a")
    (root / "absolute").symlink_to(f"{root}/a/f")
    for number in range(MAX_LINKS - 2):
        (root / f"chain{number}").symlink_to(f"chain{number + 1}")
    (root / f"chain{MAX_LINKS - 2}").symlink_to("a/f")
    if path in ("a/../../workspace-not", "x/.."):
        with pytest.raises((ToolFailure, FileNotFoundError)):
            content(tree, path)
    else:
        assert content(tree, path) == b"in"


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "a/../../secret",
        "/etc/passwd",
        "/workspacesecret",
        "/workspace/../secret",
        "/proc/self/root/etc/passwd",
        "out",
        "out-absolute",
        "a/out-up",
        "directory-out/secret",
        "magic",
        "magic-root/etc/passwd",
        "loop-through/../../secret",
    ],
)
def test_no_path_leads_outside(tree: Tree, root: Path, outside: Path, path: str) -> None:
    (root / "a").mkdir()
    (root / "out").symlink_to("../secret")
    (root / "out-absolute").symlink_to(outside)
    (root / "a" / "out-up").symlink_to("../../secret")
    (root / "directory-out").symlink_to("..")
    (root / "magic").symlink_to("/proc/self/environ")
    (root / "magic-root").symlink_to("/proc/self/root")
    (root / "loop-through").symlink_to("a")
    assert refusal(tree, path) == "path_outside_workspace"


def test_links_in_a_circle_end(tree: Tree, root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    assert refusal(tree, "a") == "too_many_links"


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000, "a/" * 100 + "f"])
def test_paths_that_are_none_are_refused(tree: Tree, root: Path, path: str) -> None:
    (root / ("a/" * 100)).mkdir(parents=True)
    assert refusal(tree, path) == "invalid_path"


def test_a_fifo_a_socket_and_a_directory_are_not_read_and_not_waited_for(tree: Tree, root: Path) -> None:
    os.mkfifo(root / "fifo")
    assert refusal(tree, "fifo") == "not_a_file"
    assert refusal(tree, ".") == "is_a_directory"
    with tree.place("fifo") as place, pytest.raises(OSError, match="No such device"):
        tree.open_file(place, os.O_WRONLY)


def test_a_device_is_not_a_file(tree: Tree, root: Path) -> None:
    if os.geteuid() != 0:
        pytest.fail("this test makes a device node and needs root")
    os.mknod(root / "zero", 0o20666, os.makedev(1, 5))
    assert refusal(tree, "zero") == "not_a_file"


def test_a_name_swapped_for_a_link_is_not_followed(tree: Tree, root: Path, outside: Path) -> None:
    (root / "f").write_text("in")
    with tree.place("f") as place:
        (root / "f").unlink()
        (root / "f").symlink_to(outside)
        with pytest.raises(OSError, match="symbolic"):
            tree.open_file(place, os.O_RDONLY)
        with pytest.raises(OSError, match="symbolic"):
            tree.open_file(place, os.O_WRONLY | os.O_CREAT)
    assert outside.read_text() == "secret"


def test_a_directory_swapped_for_a_link_while_walked_never_leads_out(tree: Tree, root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "f").write_text("secret")
    (root / "real").mkdir()
    (root / "real" / "f").write_text("in")
    os.symlink("../out", root / "evil")
    os.rename(root / "real", root / "d")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for source, target in (("d", "t"), ("evil", "d"), ("d", "evil"), ("t", "d")):
                os.rename(root / source, root / target)

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen = set()
    try:
        for _ in range(3000):
            try:
                seen.add(content(tree, "d/f"))
            except (ToolFailure, FileNotFoundError):
                continue
    finally:
        stop.set()
        swapping.join()
    assert seen == {b"in"}


def test_no_descriptor_is_left_open(tree: Tree, root: Path, outside: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "f").write_text("x")
    (root / "out").symlink_to(outside)
    before = open_descriptors()
    content(tree, "a/b/../b/f")
    for path in ("out", "a/b/f/g", "a/none/f"):
        with pytest.raises((ToolFailure, OSError)):
            content(tree, path)
    assert open_descriptors() == before


def test_parents_are_made_inside_only(tree: Tree, root: Path, tmp_path: Path) -> None:
    with tree.place("x/y/z", make_parents=True) as place:
        assert place.name == "z"
    assert (root / "x" / "y").is_dir()
    (root / "out").symlink_to("../new")
    with pytest.raises(ToolFailure), tree.place("out/d/f", make_parents=True):
        pytest.fail("a place outside was given")
    assert not (tmp_path / "new").exists()
