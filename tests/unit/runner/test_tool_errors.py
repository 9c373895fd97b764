"""What each tool says to what it cannot do: a stable name, the path as it was given, and what to do."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from perstack_runner.results import from_outcome
from perstack_runner.tools import catalogue
from perstack_runner.tools.outcome import ToolFailure
from perstack_runner.tools.toolbox import ON_TREE, _on_tree
from perstack_runner.tools.tree import Tree

TOOLS = catalogue.load()
ONE_PATH = {
    "readTextFile": {},
    "readImageFile": {},
    "writeTextFile": {"text": "x"},
    "appendTextFile": {"text": "x"},
    "editTextFile": {"oldText": "old", "newText": "new"},
    "deleteFile": {},
    "getFileInfo": {},
    "listDirectory": {},
    "createDirectory": {},
    "deleteDirectory": {},
    "findFiles": {"pattern": "*"},
}
READING = (
    "readTextFile",
    "readImageFile",
    "editTextFile",
    "deleteFile",
    "listDirectory",
    "deleteDirectory",
    "findFiles",
)
OF_FILES = ("readTextFile", "readImageFile", "writeTextFile", "appendTextFile", "editTextFile", "deleteFile")
OF_DIRECTORIES = ("listDirectory", "createDirectory", "deleteDirectory", "findFiles")


def called(tree: Tree, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    checked = catalogue.checked(TOOLS[tool]["inputSchema"], json.dumps(arguments).encode())
    return _on_tree(ON_TREE[tool], tree, checked).value


def failure(tree: Tree, tool: str, **arguments: Any) -> ToolFailure:
    with pytest.raises(ToolFailure) as caught:
        called(tree, tool, arguments)
    return caught.value


@pytest.fixture
def files(root: Path) -> Path:
    (root / "f").write_text("old\n")
    (root / "d").mkdir()
    (root / "d" / "inner").write_text("x")
    (root / "empty").mkdir()
    (root / "binary").write_bytes(b"\x7fELF\0\0")
    (root.parent / "secret").write_text("old")
    (root / "out").symlink_to("../secret")
    (root / "out-directory").symlink_to("..")
    os.mkfifo(root / "fifo")
    return root


WRONG_PATHS = {
    "": "invalid_path",
    "a\0b": "invalid_path",
    "\ud800": "invalid_path",
    "x" * 256: "invalid_path",
    "x" * 4097: "invalid_path",
    "../secret": "path_outside_workspace",
    "/etc/passwd": "path_outside_workspace",
    "out-directory/secret": "path_outside_workspace",
    "f/below": "not_a_directory",
}


@pytest.mark.parametrize("tool", ONE_PATH)
@pytest.mark.parametrize("path", WRONG_PATHS, ids=lambda path: ascii(path[:20]))
def test_a_path_that_is_none_or_leads_out_is_refused(tree: Tree, files: Path, tool: str, path: str) -> None:
    assert failure(tree, tool, path=path, **ONE_PATH[tool]).name == WRONG_PATHS[path]
    assert (files.parent / "secret").read_text() == "old"


@pytest.mark.parametrize("tool", READING)
@pytest.mark.parametrize("path", ["none", "none/deep"])
def test_a_missing_file_is_named(tree: Tree, files: Path, tool: str, path: str) -> None:
    found = failure(tree, tool, path=path, **ONE_PATH[tool])
    assert found.outcome().value == {"error": "not_found", "message": f"{path}: there is nothing at this path"}
    assert found.outcome().is_error


@pytest.mark.parametrize("tool", [tool for tool in ONE_PATH if tool not in ("deleteFile", "deleteDirectory")])
def test_a_link_out_of_the_workspace_is_not_followed(tree: Tree, files: Path, tool: str) -> None:
    assert failure(tree, tool, path="out", **ONE_PATH[tool]).name == "path_outside_workspace"
    assert (files.parent / "secret").read_text() == "old"


@pytest.mark.parametrize("tool", OF_FILES)
@pytest.mark.parametrize("path", ["d", ".", "/workspace"])
def test_a_directory_is_no_file(tree: Tree, files: Path, tool: str, path: str) -> None:
    assert failure(tree, tool, path=path, **ONE_PATH[tool]).name == "is_a_directory"


@pytest.mark.parametrize("tool", OF_DIRECTORIES)
def test_a_file_is_no_directory(tree: Tree, files: Path, tool: str) -> None:
    assert failure(tree, tool, path="f", **ONE_PATH[tool]).name == "not_a_directory"


@pytest.mark.parametrize("tool", [tool for tool in OF_FILES if tool != "deleteFile"])
def test_a_fifo_is_no_file_and_not_waited_for(tree: Tree, files: Path, tool: str) -> None:
    assert failure(tree, tool, path="fifo", **ONE_PATH[tool]).name == "not_a_file"


@pytest.mark.parametrize(
    ("tool", "arguments", "name", "says"),
    [
        ("readTextFile", {"path": "binary"}, "not_text", "use exec"),
        ("readTextFile", {"path": "f", "from": 2, "to": 1}, "invalid_arguments", "to (1) lies before from (2)"),
        ("readTextFile", {"path": "f", "from": -1}, "invalid_arguments", "from has to be at least 0"),
        ("readImageFile", {"path": "f"}, "not_an_image", "neither png, jpeg, gif nor webp"),
        (
            "editTextFile",
            {"path": "f", "oldText": "", "newText": "x"},
            "invalid_arguments",
            "oldText must not be empty",
        ),
        ("editTextFile", {"path": "f", "oldText": "OLD", "newText": "x"}, "text_not_found", "copy it exactly"),
        ("editTextFile", {"path": "f", "oldText": "old"}, "invalid_arguments", "missing: newText"),
        ("writeTextFile", {"path": "f"}, "invalid_arguments", "missing: text"),
        ("writeTextFile", {"path": "f", "text": "\ud800"}, "invalid_arguments", "surrogate"),
        ("moveFile", {"source": "f", "destination": "binary"}, "already_exists", "binary: something is already"),
        ("moveFile", {"source": "f", "destination": "empty"}, "already_exists", "empty: something is already"),
        ("moveFile", {"source": "f", "destination": "f"}, "already_exists", "f: something is already"),
        ("moveFile", {"source": "none", "destination": "new/f"}, "not_found", "none: there is nothing"),
        ("moveFile", {"source": "d", "destination": "d/inside"}, "invalid_arguments", "cannot be moved into itself"),
        ("moveFile", {"source": ".", "destination": "new"}, "is_a_directory", "stays where it is"),
        ("moveFile", {"source": "f", "destination": "../f"}, "path_outside_workspace", "../f: outside"),
        ("moveFile", {"source": "f", "destination": "binary/f"}, "not_a_directory", "part of this path"),
        ("deleteFile", {"path": "d"}, "is_a_directory", "use deleteDirectory"),
        ("deleteDirectory", {"path": "d"}, "not_empty", "pass recursive"),
        ("deleteDirectory", {"path": ".", "recursive": True}, "permission_denied", "cannot be deleted"),
        ("deleteDirectory", {"path": "out-directory", "recursive": True}, "not_a_directory", "not a directory"),
        ("createDirectory", {"path": "f"}, "not_a_directory", "f:"),
        ("findFiles", {"pattern": "../*"}, "invalid_arguments", "glob below path"),
        ("findFiles", {"pattern": "*", "limit": 0}, "invalid_arguments", "limit has to be at least 1"),
        ("applyPatch", {"patch": ""}, "invalid_arguments", "patch must not be empty"),
        ("applyPatch", {"patch": "nothing"}, "invalid_patch", "--- a/PATH"),
    ],
)
def test_what_a_tool_cannot_do_is_told(
    tree: Tree, files: Path, tool: str, arguments: dict[str, Any], name: str, says: str
) -> None:
    found = failure(tree, tool, **arguments)
    assert found.name == name
    assert says in found.message
    assert not (files / "new").exists()


def test_an_image_that_is_too_large_is_told_its_size_and_the_limit(tree: Tree, files: Path) -> None:
    with (files / "large.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(17 << 20)
    found = failure(tree, "readImageFile", path="large.png")
    assert (found.name, found.message) == (
        "file_too_large",
        "large.png: 17.0 MiB, and images are shown up to 15 MiB; make it smaller with exec",
    )


def test_an_edit_of_a_text_that_occurs_more_than_once_changes_the_first_and_counts(tree: Tree, files: Path) -> None:
    (files / "f").write_text("old old old")
    arguments = {"path": "f", "oldText": "old", "newText": "new"}
    assert called(tree, "editTextFile", arguments) == {"path": "f", "replaced": 1, "occurrences": 3}
    assert (files / "f").read_text() == "new old old"


def test_information_about_nothing_is_no_error_but_a_path_outside_is(tree: Tree, files: Path) -> None:
    assert called(tree, "getFileInfo", {"path": "none/deep"})["exists"] is False
    assert failure(tree, "getFileInfo", path="../secret").name == "path_outside_workspace"


def test_an_error_is_a_text_of_error_and_message_and_marked(tree: Tree, files: Path) -> None:
    result = from_outcome("c", failure(tree, "readTextFile", path="none").outcome(), 1)
    assert result.is_error
    (part,) = result.content
    assert sorted(json.loads(getattr(part, "text"))) == ["error", "message"]  # noqa: B009 - of a union
