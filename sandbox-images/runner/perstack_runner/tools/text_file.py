"""Reading and changing text files. Memory does not grow with a file's size when it is read."""

import os
import time
from typing import Any, Final

from perstack_runner.tools.outcome import Outcome, ToolFailure
from perstack_runner.tools.replace import locked, replace, write_all
from perstack_runner.tools.tree import Place, Tree
from perstack_runner.tools.utf8 import without_cut_end

READ_BYTES: Final = 256 << 10
EDIT_BYTES: Final = 32 << 20
SKIP_SECONDS: Final = 30.0
_BLOCK: Final = 256 << 10


def read(tree: Tree, arguments: dict[str, Any]) -> Outcome:
    """Lines `from` (from 0) up to, without, `to`; `truncated` says where to go on."""
    path, first, last = arguments["path"], arguments.get("from", 0), arguments.get("to")
    if last is not None and last < first:
        raise ToolFailure("invalid_arguments", f"to ({last}) lies before from ({first})")
    with tree.place(path) as place:
        descriptor = tree.open_file(place, os.O_RDONLY)
    try:
        lines = _Lines(descriptor, path)
        lines.skip(first)
        content, count, complete = lines.take(None if last is None else last - first)
    finally:
        os.close(descriptor)
    value = {"path": path, **_decoded(content), "from": first, "to": first + count}
    if first and not count and last != first:
        value["note"] = f"the file ends before line {first}"
    if not complete:
        value["truncated"] = f"stopped at {READ_BYTES >> 10} KiB; go on with from={first + count}"
    return Outcome(value)


def _decoded(content: bytes) -> dict[str, str]:
    try:
        return {"content": content.decode()}
    except UnicodeDecodeError:
        note = "not all of it is UTF-8: what is not is shown as \ufffd, and cannot be edited as text"
        return {"content": content.decode("utf-8", "replace"), "note": note}


class _Lines:
    """A file as lines, one block at a time."""

    def __init__(self, descriptor: int, shown: str) -> None:
        self._descriptor = descriptor
        self._shown = shown
        self._block = os.read(descriptor, _BLOCK)
        if b"\0" in self._block:
            raise ToolFailure("not_text", f"{shown}: a binary file; use exec to look into it")

    def skip(self, count: int) -> None:
        """Go behind `count` lines, or to the end. Raises ToolFailure too_large when that takes over 30 s."""
        deadline = time.monotonic() + SKIP_SECONDS
        while count and self._block:
            inside = self._block.count(b"\n")
            if inside >= count:
                position = -1
                for _ in range(count):
                    position = self._block.index(b"\n", position + 1)
                self._block = self._block[position + 1 :] or os.read(self._descriptor, _BLOCK)
                return
            count -= inside
            self._block = os.read(self._descriptor, _BLOCK)
            if time.monotonic() > deadline:
                raise ToolFailure("too_large", f"{self._shown}: line not reached in {SKIP_SECONDS:.0f} s; use exec")

    def take(self, count: int | None) -> tuple[bytes, int, bool]:
        """Content, how many lines it has, and whether it is all that was asked for."""
        if count == 0:
            return b"", 0, True
        whole = self._fill(count)
        window = self._block[:READ_BYTES]
        parts = window.split(b"\n")
        full = len(parts) - 1
        if count is not None and full >= count:
            return b"\n".join(parts[:count]) + b"\n", count, True
        if whole:
            return window, full + bool(parts[-1]), True
        # A line that is longer than a whole answer is shown in part: there is no smaller unit to ask for.
        return (b"\n".join(parts[:full]) + b"\n", full, False) if full else (without_cut_end(window), 1, False)

    def _fill(self, count: int | None) -> bool:
        """Read until the answer is full; whether the file ended before."""
        lines = self._block.count(b"\n")
        while len(self._block) <= READ_BYTES and (count is None or lines < count):
            more = os.read(self._descriptor, _BLOCK)
            if not more:
                return True
            self._block += more
            lines += more.count(b"\n")
        return False


def write(tree: Tree, arguments: dict[str, Any]) -> Outcome:
    """Create or replace; waits for an edit that is going on."""
    path, content = arguments["path"], _encoded(arguments["text"], "text")
    with tree.place(path, make_parents=True) as place:
        _refuse_root(place)
        try:
            with locked(tree, place, os.O_RDONLY) as descriptor:
                replace(place, content, os.fstat(descriptor).st_mode)
        except FileNotFoundError:
            replace(place, content, None)
    return Outcome({"path": path, "bytes": len(content)})


def append(tree: Tree, arguments: dict[str, Any]) -> Outcome:
    """Append in one piece, under the lock: all of it or nothing."""
    path, content = arguments["path"], _encoded(arguments["text"], "text")
    with tree.place(path, make_parents=True) as place:
        _refuse_root(place)
        with locked(tree, place, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as descriptor:
            before = os.fstat(descriptor).st_size
            try:
                write_all(descriptor, content)
            except OSError:
                os.ftruncate(descriptor, before)
                raise
            size = os.fstat(descriptor).st_size
    return Outcome({"path": path, "bytes": len(content), "size": size})


def edit(tree: Tree, arguments: dict[str, Any]) -> Outcome:
    """Replace the first occurrence; a file with CRLF endings keeps them when the texts have LF."""
    path = arguments["path"]
    old, new = _encoded(arguments["oldText"], "oldText"), _encoded(arguments["newText"], "newText")
    with tree.place(path) as place, locked(tree, place, os.O_RDONLY) as descriptor:
        content = whole(descriptor, path)
        if old not in content and b"\r\n" in content:
            old, new = (text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for text in (old, new))
        count = content.count(old)
        if not count:
            message = f"{path}: oldText does not occur; read the file again and copy it exactly"
            raise ToolFailure("text_not_found", message)
        replace(place, content.replace(old, new, 1), os.fstat(descriptor).st_mode)
    return Outcome({"path": path, "replaced": 1, "occurrences": count})


def whole(descriptor: int, shown: str) -> bytes:
    """All of a file that is to be changed. Raises ToolFailure file_too_large, also when it grows meanwhile."""
    blocks = []
    size = os.fstat(descriptor).st_size
    if size <= EDIT_BYTES:
        size = 0
        while size <= EDIT_BYTES and (block := os.read(descriptor, _BLOCK)):
            blocks.append(block)
            size += len(block)
    if size > EDIT_BYTES:
        message = f"{shown}: over {EDIT_BYTES >> 20} MiB; change it with a program through exec"
        raise ToolFailure("file_too_large", message)
    return b"".join(blocks)


def _encoded(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ToolFailure("invalid_arguments", f"{name} holds half of a surrogate pair, which is no text") from None


def _refuse_root(place: Place) -> None:
    if place.name == ".":
        raise ToolFailure("is_a_directory", f"{place.shown}: this is a directory")
