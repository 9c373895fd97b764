"""Patches on files: all of it or nothing."""

import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from perstack_runner.tools import patch_files
from perstack_runner.tools.file_entry import rename_without_replacing
from perstack_runner.tools.outcome import ToolFailure
from perstack_runner.tools.toolbox import _on_tree
from perstack_runner.tools.tree import Tree

RENAME_PLACE = "perstack_runner.tools.change_set.rename_without_replacing"
CHANGE = "--- a/{0}\n+++ b/{0}\n@@ -1 +1 @@\n-old\n+new\n"
CREATE = "--- /dev/null\n+++ b/{0}\n@@ -0,0 +1 @@\n+new\n"
DELETE = "--- a/{0}\n+++ /dev/null\n@@ -1 +0,0 @@\n-old\n"
RENAME = "diff --git a/{0} b/{1}\nrename from {0}\nrename to {1}\n"


def applied(tree: Tree, *parts: str) -> list[dict[str, Any]]:
    value = _on_tree(patch_files.apply, tree, {"patch": "".join(parts)}).value
    files: list[dict[str, Any]] = value["files"]
    return files


def failed(tree: Tree, *parts: str) -> ToolFailure:
    with pytest.raises(ToolFailure) as caught:
        _on_tree(patch_files.apply, tree, {"patch": "".join(parts)})
    return caught.value


def contents(root: Path) -> dict[str, str]:
    """Everything below, directories with a slash."""
    found = {str(path.relative_to(root)): path for path in root.rglob("*")}
    return {
        f"{name}/" if path.is_dir() else name: "" if path.is_dir() else path.read_text() for name, path in found.items()
    }


@pytest.fixture
def files(root: Path) -> Path:
    for name in ("changed", "deleted", "moved", "edited"):
        (root / name).write_text("old\n")
    return root


def test_one_patch_changes_creates_deletes_and_renames(tree: Tree, files: Path) -> None:
    edited = RENAME.format("edited", "d/edited") + CHANGE.format("edited").replace("b/edited", "b/d/edited")
    parts = (CHANGE.format("changed"), CREATE.format("d/e/f"), DELETE.format("deleted"), RENAME.format("moved", "d/m"))
    assert applied(tree, *parts, edited) == [
        {"path": "changed", "change": "modified", "added": 1, "removed": 1},
        {"path": "d/e/f", "change": "created", "added": 1, "removed": 0},
        {"path": "deleted", "change": "deleted", "added": 0, "removed": 1},
        {"path": "d/m", "change": "renamed", "from": "moved", "added": 0, "removed": 0},
        {"path": "d/edited", "change": "renamed", "from": "edited", "added": 1, "removed": 1},
    ]
    assert contents(files) == {
        "changed": "new\n",
        "d/": "",
        "d/e/": "",
        "d/e/f": "new\n",
        "d/m": "old\n",
        "d/edited": "new\n",
    }


def test_permissions_stay_or_are_the_patchs(tree: Tree, files: Path) -> None:
    (files / "changed").chmod(0o640)
    applied(tree, CHANGE.format("changed"), "diff --git a/moved b/moved\nold mode 100644\nnew mode 100755\n")
    applied(tree, "diff --git a/run b/run\nnew file mode 100755\n" + CREATE.format("run"))
    modes = {name: stat.S_IMODE((files / name).stat().st_mode) for name in ("changed", "moved", "run")}
    assert modes["changed"] == 0o640
    assert modes["moved"] & 0o111 == 0o111
    assert modes["run"] == 0o755


def test_where_a_hunk_fitted_is_told(tree: Tree, root: Path) -> None:
    (root / "f").write_text("x\n" * 7 + "old\n")
    assert applied(tree, CHANGE.format("f"))[0]["offsets"] == {"hunk 1": 7}


def test_one_hunk_that_does_not_fit_leaves_everything_as_it_was(tree: Tree, files: Path) -> None:
    before = contents(files)
    parts = (CREATE.format("d/e/f"), DELETE.format("deleted"), RENAME.format("moved", "x/y"))
    wrong = "--- a/changed\n+++ b/changed\n@@ -1 +1 @@\n-old\n+new\n@@ -2 +2 @@\n-two\n+zwei\n"
    failure = failed(tree, *parts, wrong)
    assert failure.name == "hunk_mismatch"
    assert failure.message == "Nothing was changed. changed, hunk 2: line 2 is '', and not 'two'"
    (shown,) = failure.more["failures"]
    assert (shown["file"], shown["hunk"], shown["line"], shown["expected"], shown["found"]) == (
        *("changed", 2, 2),
        *("two\n", ""),
    )
    assert contents(files) == before


def test_all_that_is_wrong_is_told_at_once_up_to_a_bound(tree: Tree, files: Path) -> None:
    (files / "changed").write_text("else\n")
    failure = failed(
        tree, CHANGE.format("changed"), CHANGE.format("none"), CREATE.format("moved"), CHANGE.format("../x")
    )
    assert failure.name == "patch_failed"
    assert [(entry["file"], entry["error"]) for entry in failure.more["failures"]] == [
        ("../x", "path_outside_workspace"),
        ("changed", "hunk_mismatch"),
        ("moved", "already_exists"),
        ("none", "not_found"),
    ]
    assert "(and 3 more)" in failure.message
    many = failed(tree, *[CHANGE.format(f"none{number}") for number in range(100)])
    assert (many.name, len(many.more["failures"])) == ("not_found", patch_files.MOST_FAILURES)


@pytest.mark.parametrize(
    ("patch", "name"),
    [
        (CHANGE.format("d"), "is_a_directory"),
        (CHANGE.format("link"), "not_a_file"),
        (DELETE.format("link"), "not_a_file"),
        (CHANGE.format("out/secret"), "path_outside_workspace"),
        (CREATE.format("out/secret"), "path_outside_workspace"),
        (CREATE.format("link"), "already_exists"),
        (CREATE.format("changed/f"), "not_a_directory"),
        (CHANGE.format("fifo"), "not_a_file"),
        (CHANGE.format("binary"), "not_text"),
        (CHANGE.format("/etc/passwd"), "path_outside_workspace"),
        (CHANGE.format("x" * 300), "invalid_path"),
        (RENAME.format("changed", "moved"), "already_exists"),
        (RENAME.format("changed", "../x"), "path_outside_workspace"),
        (DELETE.format("longer"), "hunk_mismatch"),
        (CHANGE.format("a\0b"), "invalid_path"),
        ("nothing", "invalid_patch"),
        (CHANGE.format("f") + "+" * (1 << 20), "invalid_patch"),
    ],
)
def test_what_cannot_be_patched_is_refused(tree: Tree, files: Path, patch: str, name: str) -> None:
    (files / "d").mkdir()
    (files / "link").symlink_to("changed")
    (files / "out").symlink_to("..")
    (files.parent / "secret").write_text("old\n")
    (files / "binary").write_bytes(b"\0")
    (files / "longer").write_text("old\nmore\n")
    before = contents(files)
    os.mkfifo(files / "fifo")
    assert failed(tree, patch).name == name
    (files / "fifo").unlink()
    assert contents(files) == before
    assert (files.parent / "secret").read_text() == "old\n"


@pytest.mark.parametrize("fails_at", range(1, 9))
def test_a_change_that_fails_when_others_are_made_takes_them_back(
    tree: Tree, files: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """Each rename and link of the commit fails once."""
    before, calls = contents(files), 0

    def failing(real: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise OSError(errno.EIO, "Input/output error")
            real(*arguments, **more)

        return call

    monkeypatch.setattr(os, "rename", failing(os.rename))
    monkeypatch.setattr(os, "link", failing(os.link))
    monkeypatch.setattr(RENAME_PLACE, failing(rename_without_replacing))
    parts = (
        *(CHANGE.format("changed"), CREATE.format("new/f"), DELETE.format("deleted"), CHANGE.format("edited")),
        RENAME.format("moved", "new/m") + CHANGE.format("moved").replace("b/moved", "b/new/m"),
    )
    failure = failed(tree, *parts)
    assert failure.name == "io_error"
    assert "left" not in failure.more
    assert contents(files) == before


def test_what_cannot_be_put_back_is_named(tree: Tree, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    real = rename_without_replacing

    def rename(*places: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise OSError(errno.EIO, "Input/output error")
        real(*places)

    monkeypatch.setattr(RENAME_PLACE, rename)
    assert failed(tree, DELETE.format("deleted"), DELETE.format("moved")).more["left"] == ["deleted"]


def test_a_file_that_somebody_holds_is_waited_for_with_one_bound(
    tree: Tree, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patch_files, "LOCK_SECONDS", 0.1)
    with (files / "changed").open() as first, (files / "edited").open() as second:
        for held in (first, second):
            fcntl.flock(held, fcntl.LOCK_EX)
        failure = failed(tree, CHANGE.format("changed"), CHANGE.format("edited"), CHANGE.format("moved"))
    assert [entry["error"] for entry in failure.more["failures"]] == ["file_busy", "file_busy"]
    assert (files / "moved").read_text() == "old\n"


def test_all_descriptors_and_locks_are_given_back(tree: Tree, files: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    applied(tree, CHANGE.format("changed"), CREATE.format("d/f"), DELETE.format("deleted"))
    failed(tree, CHANGE.format("changed"), CREATE.format("x/f"), CHANGE.format("moved"))
    assert set(os.listdir("/proc/self/fd")) == before
    with (files / "changed").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_hundred_files_need_few_descriptors(tree: Tree, root: Path) -> None:
    import resource

    deep = "a/b/c/d/e/f/g/h"
    (root / deep).mkdir(parents=True)
    for number in range(100):
        (root / deep / str(number)).write_text("old\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 350, hard))
    try:
        applied(tree, *[CHANGE.format(f"{deep}/{number}") for number in range(100)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {(root / deep / str(number)).read_text() for number in range(100)} == {"new\n"}
    assert len(os.listdir(root / deep)) == 100
