"""Base tools on workspaces as they are: huge files, two sandboxes on one tree, read-only, full, not ours."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from perstack_runner.tools import search
from perstack_runner.tools.outcome import ToolFailure
from perstack_runner.tools.toolbox import ON_TREE, _on_tree
from perstack_runner.tools.tree import Tree

from tests.integration.runner.conftest import PYTHONPATH

PROGRAM = Path(__file__).with_name("tool_process.py")
SEARCH = Path(search.__file__).with_name("search_program.py")
NOBODY = 65534
PATCH = "--- a/{0}\n+++ b/{0}\n@@ -1 +1 @@\n-{1}\n+{2}\n"
Call = tuple[str, dict[str, Any]]


class ToolProcess:
    """tool_process.py at work."""

    def __init__(self, workspace: Path, uid: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(workspace), str(uid)],
            env={"PYTHONPATH": PYTHONPATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first_peak: int = self._answer()["peak"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the process ended: {self.process.wait(10)}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The value of one call."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([tool, arguments]) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        self.peak: int = answer["peak"]
        value: dict[str, Any] = answer["value"]
        return value

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def processes(*workspaces: Path, uid: int = 0) -> Iterator[list[ToolProcess]]:
    started = [ToolProcess(workspace, uid) for workspace in workspaces]
    try:
        yield started
    finally:
        for process in started:
            process.close()


@contextmanager
def mounted(target: Path, *arguments: str) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.fail("this test mounts a file system and needs root")
    subprocess.run(["mount", *arguments, str(target)], check=True, timeout=30)
    try:
        yield target
    finally:
        subprocess.run(["umount", str(target)], check=True, timeout=30)


def error(workspace: Path, tool: str, **arguments: Any) -> str:
    tree = Tree(str(workspace))
    try:
        with pytest.raises(ToolFailure) as caught:
            _on_tree(ON_TREE[tool], tree, arguments)
    finally:
        tree.close()
    return caught.value.name


# --- two gigabytes ----------------------------------------------------------------------------------------------------
LINE = "a line of a log that somebody kept for years, number {}\n"
MANY = 40_000


@pytest.fixture
def huge(workspace: Path) -> Path:
    """2 GiB: lines, a hole of lines that are one, and lines."""
    lines = "".join(LINE.format(number) for number in range(MANY)).encode()
    with (workspace / "huge").open("wb") as file:
        file.write(lines)
        file.truncate((2 << 30) - len(lines))
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + lines)
    assert (workspace / "huge").stat().st_size > 2 << 30
    return workspace


def test_a_range_of_two_gigabytes_is_read_in_little_memory(huge: Path) -> None:
    with processes(huge) as (process,):
        value = process.call("readTextFile", path="huge", **{"from": 10, "to": 12})
        assert value["content"] == LINE.format(10) + LINE.format(11)
        last = process.call("readTextFile", path="huge", **{"from": 2 * MANY, "to": 2 * MANY + 5})
        assert last["content"] == LINE.format(MANY - 1)
        assert "truncated" in process.call("readTextFile", path="huge")
        assert process.call("findFiles", pattern="**/hu*")["files"] == ["huge"]
        assert process.call("getFileInfo", path="huge")["size"] > 2 << 30
        for tool, more in (("editTextFile", {"oldText": "x", "newText": "y"}), ("readImageFile", {})):
            assert process.call(tool, path="huge", **more)["error"] == "file_too_large"
        assert process.call("applyPatch", patch=PATCH.format("huge", "x", "y"))["error"] == "file_too_large"
        assert process.peak - process.first_peak < 8 << 10


def test_two_gigabytes_are_searched_in_little_memory(huge: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SEARCH_MEMORY", 80 << 20)  # of address space, of which an interpreter takes 25
    request = search.request({"pattern": f"number {MANY - 1}$", "context": 2}, "huge")
    command = [sys.executable, "-I", "-S", str(SEARCH)]
    answer = subprocess.run(
        command, input=request + b"\n", cwd=huge, check=True, timeout=60, capture_output=True
    ).stdout
    value = search.answer(answer, "huge").value
    assert [match["line"] for match in value["matches"]][:1] == [MANY - 1]
    if "truncated" in value:  # a slow machine: then it says so
        assert "out of time" in value["truncated"]
    else:
        first, second = value["matches"]
        assert second["line"] == 2 * MANY
        assert [line[-5:] for line in second["before"]] == ["39997", "39998"]
        assert (first["after"][0][:1], second["after"]) == ("\0", [])


# --- two sandboxes on one tree ----------------------------------------------------------------------------------------
EDITS = 200


def edits(mine: str) -> Iterator[Call]:
    for number in range(EDITS):
        yield "editTextFile", {"path": "f", "oldText": f"<{mine}{number}>", "newText": f"[{mine}{number}]"}


def patches(mine: str) -> Iterator[Call]:
    for number in range(EDITS):
        yield "applyPatch", {"patch": PATCH.format("f", f"<{mine}{number}>", f"[{mine}{number}]")}


def appends(mine: str) -> Iterator[Call]:
    for number in range(EDITS):
        yield "appendTextFile", {"path": "f", "text": f"+{mine}{number}\n"}


@pytest.mark.parametrize("other", [edits, patches, appends], ids=["edits", "patches", "appends"])
def test_two_processes_that_change_one_file_lose_no_change(place: Path, workspace: Path, other: Any) -> None:
    """Each sees the tree through a mount of its own, as two sandboxes do."""
    lines = [f"<{mine}{number}>" for number in range(EDITS) for mine in "ab"]
    (workspace / "f").write_text("\n".join(lines) + "\n")
    views = [place / "first", place / "second"]
    for view in views:
        view.mkdir()

    def change(process: ToolProcess, calls: Iterator[Call]) -> list[str]:
        answers = [process.call(tool, **arguments) for tool, arguments in calls]
        return [answer["error"] for answer in answers if "error" in answer]

    with (
        mounted(views[0], "--bind", str(workspace)),
        mounted(views[1], "--bind", str(workspace)),
        processes(*views) as both,
        ThreadPoolExecutor(2) as pool,
    ):
        assert list(pool.map(change, both, (edits("a"), other("b")))) == [[], []]
    kept = "<" if other is appends else "["
    expected = [
        f"{'[' if mine == 'a' else kept}{mine}{n}{']' if mine == 'a' or kept == '[' else '>'}"
        for n in range(EDITS)
        for mine in "ab"
    ]
    after = (workspace / "f").read_text().splitlines()
    assert after[: len(expected)] == expected
    assert after[len(expected) :] == ([f"+b{number}" for number in range(EDITS)] if other is appends else [])
    assert os.listdir(workspace) == ["f"]


def test_patches_of_two_processes_over_the_same_files_do_not_block_each_other(workspace: Path) -> None:
    names = [f"f{number}" for number in range(10)]
    for name in names:
        (workspace / name).write_text("<a>\n\n\n\n\n\n\n\n<b>\n")

    def change(process: ToolProcess, mine: str, order: list[str]) -> list[dict[str, Any]]:
        calls = (("<{}>", "[{}]"), ("[{}]", "<{}>"))
        patches = [
            "".join(PATCH.format(name, *(text.format(mine) for text in call)) for name in order) for call in calls
        ]
        return [process.call("applyPatch", patch=patches[number % 2]) for number in range(21)]

    started = time.monotonic()
    with processes(workspace, workspace) as both, ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(change, both, "ab", (names, names[::-1])))
    assert [answer for side in answers for answer in side if "error" in answer] == []
    assert {(workspace / name).read_text() for name in names} == {"[a]\n\n\n\n\n\n\n\n[b]\n"}
    assert time.monotonic() - started < 30


# --- file systems that refuse -----------------------------------------------------------------------------------------
def changes(existing: str) -> list[Call]:
    return [
        ("writeTextFile", {"path": existing, "text": "x"}),
        ("writeTextFile", {"path": "new", "text": "x"}),
        ("writeTextFile", {"path": "new/deep/f", "text": "x"}),
        ("appendTextFile", {"path": existing, "text": "x"}),
        ("editTextFile", {"path": existing, "oldText": "old", "newText": "x"}),
        ("moveFile", {"source": existing, "destination": "new"}),
        ("deleteFile", {"path": existing}),
        ("createDirectory", {"path": "new"}),
        ("deleteDirectory", {"path": "d"}),
        ("applyPatch", {"patch": PATCH.format(existing, "old", "new")}),
        ("applyPatch", {"patch": f"--- a/{existing}\n+++ /dev/null\n@@ -1 +0,0 @@\n-old\n"}),
    ]


def filled(workspace: Path) -> None:
    (workspace / "f").write_text("old\n")
    (workspace / "d").mkdir()


def test_a_read_only_workspace_says_so_and_can_be_read(workspace: Path) -> None:
    filled(workspace)
    with mounted(workspace, "--bind", str(workspace)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(workspace)], check=True, timeout=30)
        assert {error(workspace, tool, **arguments) for tool, arguments in changes("f")} == {"read_only"}
        with processes(workspace) as (process,):
            assert process.call("readTextFile", path="f")["content"] == "old\n"
    assert sorted(os.listdir(workspace)) == ["d", "f"]


def test_a_workspace_of_somebody_else_says_so(workspace: Path) -> None:
    filled(workspace)
    for path in (workspace.parent, workspace, workspace / "d"):
        path.chmod(0o755)
    (workspace / "f").chmod(0o644)
    (workspace / "secret").write_text("x")
    (workspace / "secret").chmod(0o600)
    (workspace / "locked").mkdir(mode=0o700)
    with processes(workspace, uid=NOBODY) as (process,):
        assert {process.call(tool, **arguments)["error"] for tool, arguments in changes("f")} == {"permission_denied"}
        for tool, name in (("readTextFile", "secret"), ("listDirectory", "locked"), ("readTextFile", "locked/f")):
            assert process.call(tool, path=name)["error"] == "permission_denied"
        assert process.call("findFiles", pattern="**")["files"] == ["f", "secret"]
        assert process.call("readTextFile", path="f")["content"] == "old\n"


def test_a_full_workspace_keeps_what_it_had(workspace: Path) -> None:
    with mounted(workspace, "-t", "tmpfs", "-o", "size=64k", "none"):
        (workspace / "f").write_text("old\n" * 2500)
        before = (workspace / "f").read_text()
        more = "x" * 100_000
        old_line = {"path": "f", "oldText": "old", "newText": more}
        assert error(workspace, "writeTextFile", path="f", text=more) == "no_space"
        assert error(workspace, "writeTextFile", path="new", text=more) == "no_space"
        assert error(workspace, "appendTextFile", path="f", text=more) == "no_space"
        assert error(workspace, "editTextFile", **old_line) == "no_space"
        large = "".join(f"+{'x' * 99}\n" for _ in range(1000))
        created = "--- /dev/null\n+++ b/d/small\n@@ -0,0 +1 @@\n+x\n--- /dev/null\n+++ b/large\n@@ -0,0 +1,1000 @@\n"
        assert error(workspace, "applyPatch", patch=PATCH.format("f", "old", "new") + created + large) == "no_space"
        assert (workspace / "f").read_text() == before
        assert os.listdir(workspace) == ["f"]


def test_moving_between_file_systems_is_left_to_a_program(workspace: Path) -> None:
    filled(workspace)
    with mounted(workspace / "d", "-t", "tmpfs", "none"):
        assert error(workspace, "moveFile", source="f", destination="d/f") == "cross_device"
