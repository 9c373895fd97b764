import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from perstack_runner.tools import search
from perstack_runner.tools.outcome import ToolFailure
from perstack_runner.tools.tree import Tree

PROGRAM = Path(search.__file__).with_name("search_program.py")


@pytest.fixture
def files(root: Path) -> Path:
    for name in ("a.py", "src/b.py", "src/deep/er/c.py", "src/d.txt", ".git/e.py", "node_modules/f.py", ".hidden/g.py"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"def in_{path.stem}():\n    return '{name}'\n")
    (root / "src" / "link.py").symlink_to("b.py")
    (root / "out").symlink_to("/etc")
    return root


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.py", ["a.py"]),
        ("**/*.py", [".hidden/g.py", "a.py", "src/b.py", "src/deep/er/c.py", "src/link.py"]),
        ("src/**", ["src/b.py", "src/d.txt", "src/deep/er/c.py", "src/link.py"]),
        ("src/**/c.py", ["src/deep/er/c.py"]),
        ("**/deep/**/*.py", ["src/deep/er/c.py"]),
        ("src/?.*", ["src/b.py", "src/d.txt"]),
        (".git/*", [".git/e.py"]),
        ("**/passwd", []),
        ("[ab].py", ["a.py"]),
    ],
)
def test_globs_find_files_below_without_following_links(
    tree: Tree, files: Path, pattern: str, found: list[str]
) -> None:
    assert sorted(search.find(tree, {"pattern": pattern}).value["files"]) == sorted(found)


def test_results_are_bounded_and_say_so(tree: Tree, files: Path) -> None:
    value = search.find(tree, {"pattern": "**/*.py", "limit": 2}).value
    assert len(value["files"]) == 2
    assert "more than 2" in value["truncated"]


def test_a_walk_is_bounded_in_entries(tree: Tree, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FIND_ENTRIES", 3)
    assert "stopped after" in search.find(tree, {"pattern": "**"}).value["truncated"]


def test_a_glob_with_many_stars_is_matched_in_no_time(tree: Tree, files: Path) -> None:
    (files / ("a" * 200)).touch()
    assert search.find(tree, {"pattern": "*a" * 60 + "b"}).value["files"] == []
    assert search.matches(("d",) * 60, ("**", "d") * 30 + ("x",)) is False


@pytest.mark.parametrize("pattern", ["", "/", "../*", "a/" * 100 + "b"])
def test_patterns_that_are_none_are_refused(tree: Tree, files: Path, pattern: str) -> None:
    with pytest.raises(ToolFailure, match="glob"):
        search.find(tree, {"pattern": pattern})


def searched(root: Path, only: str = "", **arguments: Any) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(PROGRAM)],
        input=search.request(arguments, only) + b"\n",
        cwd=root,
        capture_output=True,
        timeout=30,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_lines_are_found_with_their_context(files: Path) -> None:
    value = searched(files, pattern=r"def in_[bc]", context=1)
    assert value["matches"] == [
        {"file": "src/b.py", "line": 0, "text": "def in_b():", "before": [], "after": ["    return 'src/b.py'"]},
        {
            "file": "src/deep/er/c.py",
            "line": 0,
            "text": "def in_c():",
            "before": [],
            "after": ["    return 'src/deep/er/c.py'"],
        },
    ]


def test_a_single_file_a_glob_and_letter_case_narrow_a_search(files: Path) -> None:
    assert len(searched(files, "a.py", pattern="def")["matches"]) == 1
    assert [match["file"] for match in searched(files, pattern="in_", glob="*.txt")["matches"]] == ["src/d.txt"]
    assert searched(files, pattern="DEF")["matches"] == []
    assert len(searched(files, pattern="DEF", ignoreCase=True)["matches"]) == 5


def test_what_is_no_text_or_no_file_is_passed_over(files: Path) -> None:
    (files / "binary").write_bytes(b"def\0def")
    os.mkfifo(files / "fifo")
    assert "binary" not in {match["file"] for match in searched(files, pattern="def")["matches"]}


def test_answers_are_bounded_in_number_and_size(files: Path) -> None:
    (files / "many").write_text("def " + "x" * 400 + "\n")
    value = searched(files, pattern="def", limit=2)
    assert len(value["matches"]) == 2
    assert "more than 2" in value["truncated"]
    (files / "many").write_text(("def " + "x" * 4000 + "\n") * 5000)
    value = searched(files, "many", pattern="def", limit=500, context=20)
    assert len(json.dumps(value)) < search.SEARCH_ANSWER_BYTES
    assert "full" in value["truncated"]


def test_a_pattern_that_is_none_is_named(files: Path) -> None:
    value = searched(files, pattern="(")
    assert value["error"] == "invalid_pattern"
    with pytest.raises(ToolFailure, match="regular expression"):
        search.answer(json.dumps(value).encode(), ".")
    with pytest.raises(ToolFailure, match="without an answer"):
        search.answer(b"", ".")
