"""Files and directories: results, errors, and edits that meet."""

import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from perstack_runner.tools import directory, file_entry, replace, text_file
from perstack_runner.tools.outcome import Outcome, ToolFailure
from perstack_runner.tools.toolbox import _on_tree
from perstack_runner.tools.tree import Tree


def call(work: Any, tree: Tree, **arguments: Any) -> dict[str, Any]:
    outcome: Outcome = _on_tree(work, tree, arguments)
    return outcome.value


def failure(work: Any, tree: Tree, **arguments: Any) -> str:
    with pytest.raises(ToolFailure) as caught:
        _on_tree(work, tree, arguments)
    return caught.value.name


# --- reading ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("bounds", "content", "last"),
    [
        ({}, "a\nb\nc", 3),
        ({"from": 1}, "b\nc", 3),
        ({"from": 1, "to": 2}, "b\n", 2),
        ({"to": 3}, "a\nb\nc", 3),
        ({"from": 3}, "", 3),
        ({"from": 9, "to": 12}, "", 9),
        ({"from": 1, "to": 1}, "", 1),
    ],
)
def test_lines_are_counted_from_0_and_the_last_is_left_out(
    tree: Tree, root: Path, bounds: dict[str, int], content: str, last: int
) -> None:
    (root / "f").write_text("a\nb\nc")
    value = call(text_file.read, tree, path="f", **bounds)
    assert (value["content"], value["to"]) == (content, last)
    assert "truncated" not in value


@pytest.mark.parametrize(
    ("first", "last", "says"),
    [(9, 12, "the file ends before line 9"), (9, None, "the file ends before line 9"), (2, 2, ""), (2, 9, "")],
)
def test_a_range_behind_the_end_is_told_from_an_empty_one(
    tree: Tree, root: Path, first: int, last: int | None, says: str
) -> None:
    (root / "f").write_text("a\nb\nc")
    bounds = {"from": first} if last is None else {"from": first, "to": last}
    assert call(text_file.read, tree, path="f", **bounds).get("note", "") == says


def test_a_large_file_is_read_in_pieces_that_join_to_the_whole(tree: Tree, root: Path) -> None:
    lines = [f"line {number} {'x' * (number % 97)}\n" for number in range(30_000)]
    (root / "f").write_text("".join(lines))
    read, first = "", 0
    while True:
        value = call(text_file.read, tree, path="f", **{"from": first})
        read, first = read + value["content"], value["to"]
        if "truncated" not in value:
            break
    assert read == "".join(lines)
    assert first == len(lines)


def test_one_line_longer_than_an_answer_is_shown_in_part(tree: Tree, root: Path) -> None:
    (root / "f").write_text("x" * (1 << 20) + "\nnext\n")
    value = call(text_file.read, tree, path="f")
    assert (len(value["content"]), value["to"]) == (256 << 10, 1)
    assert call(text_file.read, tree, path="f", **{"from": 1})["content"] == "next\n"


def test_bytes_that_are_no_utf8_are_replaced_with_a_note(tree: Tree, root: Path) -> None:
    (root / "f").write_bytes(b"a\xffb\n")
    value = call(text_file.read, tree, path="f")
    assert value["content"] == "a\ufffdb\n"
    assert "not all of it is UTF-8" in value["note"]


def test_a_cut_parts_no_character(tree: Tree, root: Path) -> None:
    (root / "f").write_text("x" + "ä" * (256 << 10))
    value = call(text_file.read, tree, path="f")
    assert value["content"] == "x" + "ä" * ((128 << 10) - 1)
    assert "note" not in value


def test_a_missing_file_a_binary_one_and_bounds_in_the_wrong_order_are_named(tree: Tree, root: Path) -> None:
    (root / "b").write_bytes(b"\x7fELF\0\0")
    assert failure(text_file.read, tree, path="none") == "not_found"
    assert failure(text_file.read, tree, path="b") == "not_text"
    assert failure(text_file.read, tree, path="b", **{"from": 3, "to": 1}) == "invalid_arguments"


# --- changing ---------------------------------------------------------------------------------------------------------
def test_writing_makes_directories_and_keeps_a_files_permissions(tree: Tree, root: Path) -> None:
    call(text_file.write, tree, path="a/b/f", text="one")
    (root / "a/b/f").chmod(0o750)
    call(text_file.write, tree, path="a/b/f", text="two ä")
    assert (root / "a/b/f").read_text() == "two ä"
    assert stat.S_IMODE((root / "a/b/f").stat().st_mode) == 0o750
    assert os.listdir(root / "a/b") == ["f"]


def test_writing_through_a_link_changes_what_it_points_to(tree: Tree, root: Path) -> None:
    (root / "real").write_text("old")
    (root / "link").symlink_to("real")
    call(text_file.write, tree, path="link", text="new")
    assert (root / "link").is_symlink()
    assert (root / "real").read_text() == "new"


def test_an_edit_replaces_the_first_occurrence_and_says_how_many_there_are(tree: Tree, root: Path) -> None:
    (root / "f").write_text("a b a")
    assert call(text_file.edit, tree, path="f", oldText="a", newText="c")["occurrences"] == 2
    assert (root / "f").read_text() == "c b a"
    assert failure(text_file.edit, tree, path="f", oldText="zzz", newText="") == "text_not_found"


def test_an_edit_keeps_crlf_endings(tree: Tree, root: Path) -> None:
    (root / "f").write_bytes(b"a\r\nb\r\nc\r\n")
    call(text_file.edit, tree, path="f", oldText="a\nb", newText="x\ny\nz")
    assert (root / "f").read_bytes() == b"x\r\ny\r\nz\r\nc\r\n"


def test_no_edit_and_no_append_of_many_at_once_is_lost(root: Path) -> None:
    """Each worker has a tree of its own, as runs in different sandboxes do."""
    (root / "f").write_text("".join(f"<{number}>\n" for number in range(40)))

    def change(number: int) -> None:
        tree = Tree(str(root))
        try:
            call(text_file.edit, tree, path="f", oldText=f"<{number}>\n", newText=f"[{number}]\n")
            call(text_file.append, tree, path="log", text=f"{number}\n")
            call(text_file.append, tree, path="f", text=f"+{number}\n")
        finally:
            tree.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(40)))
    lines = (root / "f").read_text().split()
    assert lines[:40] == [f"[{number}]" for number in range(40)]
    assert sorted(lines[40:]) == sorted(f"+{number}" for number in range(40))
    assert sorted((root / "log").read_text().split(), key=int) == [str(number) for number in range(40)]
    assert sorted(os.listdir(root)) == ["f", "log"]


def test_a_reader_sees_the_old_file_or_the_new_one(tree: Tree, root: Path) -> None:
    versions = {"a" * 100_000, "b" * 100_000}
    (root / "f").write_text("a" * 100_000)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for text in versions:
                call(text_file.write, tree, path="f", text=text)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            assert (root / "f").read_text() in versions
    finally:
        stop.set()
        writer.join()


def test_a_lock_that_somebody_keeps_is_waited_for_with_a_bound(
    tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr(replace, "LOCK_SECONDS", 0.1)
    (root / "f").write_text("a")
    with (root / "f").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        started = time.monotonic()
        assert failure(text_file.edit, tree, path="f", oldText="a", newText="b") == "file_busy"
        assert time.monotonic() - started < 30


def test_changing_a_fifo_a_directory_or_half_a_character_is_refused(tree: Tree, root: Path) -> None:
    os.mkfifo(root / "fifo")
    (root / "d").mkdir()
    for work in (text_file.write, text_file.append):
        assert failure(work, tree, path="fifo", text="x") == "not_a_file"
        assert failure(work, tree, path="d", text="x") == "is_a_directory"
        assert failure(work, tree, path=".", text="x") == "is_a_directory"
        assert failure(work, tree, path="f", text="\ud800") == "invalid_arguments"
    assert sorted(os.listdir(root)) == ["d", "fifo"]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "f").write_text("old")

    def full(_descriptor: int, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(replace, "write_all", full)
    assert failure(text_file.write, tree, path="f", text="new") == "no_space"
    assert (root / "f").read_text() == "old"
    assert os.listdir(root) == ["f"]


def test_an_append_that_finds_no_room_leaves_nothing(tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "f").write_text("old")

    def part(descriptor: int, content: bytes) -> None:
        os.write(descriptor, content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(text_file, "write_all", part)
    assert failure(text_file.append, tree, path="f", text="new") == "no_space"
    assert (root / "f").read_text() == "old"


def test_a_file_that_grows_past_the_bound_while_it_is_edited_is_not_cut(
    tree: Tree, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "f").write_text("old" + "x" * 2000)
    real = os.fstat

    def before_it_grew(descriptor: int) -> os.stat_result:
        found = real(descriptor)
        return os.stat_result((*found[:6], 10, *found[7:10])) if stat.S_ISREG(found.st_mode) else found

    monkeypatch.setattr(text_file, "EDIT_BYTES", 1000)
    with tree.place("f") as place:
        descriptor = tree.open_file(place, os.O_RDONLY)
    try:
        monkeypatch.setattr(os, "fstat", before_it_grew)
        with pytest.raises(ToolFailure) as caught:
            text_file.whole(descriptor, "f")
        assert caught.value.name == "file_too_large"
    finally:
        monkeypatch.undo()
        os.close(descriptor)


# --- entries and directories ------------------------------------------------------------------------------------------
def test_information_tells_kinds_apart(tree: Tree, root: Path) -> None:
    (root / "f").write_text("abc")
    (root / "d").mkdir()
    assert call(file_entry.info, tree, path="none") == {"exists": False, "path": "none"}
    info = call(file_entry.info, tree, path="f")
    assert (info["exists"], info["type"], info["size"]) == (True, "file", 3)
    assert call(file_entry.info, tree, path="d")["type"] == "directory"


def test_moving_takes_the_link_itself_and_replaces_nothing(tree: Tree, root: Path) -> None:
    (root / "f").write_text("f")
    (root / "g").write_text("g")
    (root / "out").symlink_to("/etc/passwd")
    assert failure(file_entry.move, tree, source="f", destination="g") == "already_exists"
    assert failure(file_entry.move, tree, source="none", destination="x") == "not_found"
    assert failure(file_entry.move, tree, source=".", destination="x") == "is_a_directory"
    call(file_entry.move, tree, source="f", destination="new/f")
    call(file_entry.move, tree, source="out", destination="moved")
    assert (root / "new/f").read_text() == "f"
    assert os.readlink(root / "moved") == "/etc/passwd"


def test_deleting_a_link_leaves_what_it_points_to(tree: Tree, root: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "f").write_text("x")
    (root / "d").mkdir()
    (root / "d" / "link").symlink_to(tmp_path / "kept")
    (root / "file-link").symlink_to(tmp_path / "kept" / "f")
    call(file_entry.delete, tree, path="file-link")
    assert failure(file_entry.delete, tree, path="d") == "is_a_directory"
    assert failure(directory.delete, tree, path="d") == "not_empty"
    call(directory.delete, tree, path="d", recursive=True)
    assert os.listdir(root) == []
    assert (tmp_path / "kept" / "f").read_text() == "x"


def test_the_workspace_itself_is_not_deleted(tree: Tree, root: Path) -> None:
    assert failure(directory.delete, tree, path=".", recursive=True) == "permission_denied"
    assert root.is_dir()


def test_a_listing_is_sorted_and_bounded(tree: Tree, root: Path) -> None:
    for number in range(directory.MAX_ITEMS + 5):
        (root / f"{number:05}").touch()
    value = call(directory.list_items, tree, path=".")
    assert [item["name"] for item in value["items"]] == [f"{number:05}" for number in range(directory.MAX_ITEMS)]
    assert "2005 entries" in value["truncated"]
    assert failure(directory.list_items, tree, path="00000") == "not_a_directory"


def test_creating_a_directory_twice_is_no_error_but_over_a_file_it_is(tree: Tree, root: Path) -> None:
    for _ in range(2):
        call(directory.create, tree, path="a/b")
    (root / "f").touch()
    assert failure(directory.create, tree, path="f") == "not_a_directory"


def test_an_image_is_known_by_its_bytes(tree: Tree, root: Path) -> None:
    (root / "i.txt").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 10)
    (root / "t.png").write_text("text")
    outcome = _on_tree(file_entry.read_image, tree, {"path": "i.txt"})
    assert outcome.attachment is not None
    assert (outcome.attachment.media_type, len(outcome.attachment.data)) == ("image/png", 18)
    assert failure(file_entry.read_image, tree, path="t.png") == "not_an_image"
